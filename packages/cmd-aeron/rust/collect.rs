//! Whole messages out of fragments, either as a list or joined in a buffer of the caller.
use std::collections::HashMap;
use std::ffi::c_void;

use libaeron_sys as ae;

const BEGIN: u8 = 0x80;
const END: u8 = 0x40;
/// No frame is longer (the largest MTU); what claims to be is damaged and must not be read.
const FRAME_MAX: usize = 65_504;

const ABORT: u32 = ae::aeron_controlled_fragment_handler_action_en_AERON_ACTION_ABORT;
const CONTINUE: u32 = ae::aeron_controlled_fragment_handler_action_en_AERON_ACTION_CONTINUE;

/// Where messages go during one poll.
enum Target {
    List,
    Buffer { at: *mut u8, room: usize },
}

pub struct Collector {
    /// Messages of a list, one behind the other, and where each ends.
    pub bytes: Vec<u8>,
    pub ends: Vec<usize>,
    /// Messages of which the end is still to come, by session.
    partial: HashMap<i32, Vec<u8>>,
    /// What is left of a message that was longer than the caller's buffer.
    rest: Vec<u8>,
    rest_at: usize,
    target: Target,
    used: usize,
    session: i32,
    full: bool,
}

// SAFETY: the target's pointer is only there during a poll.
unsafe impl Send for Collector {}

impl Collector {
    pub fn new() -> Self {
        Collector {
            bytes: Vec::new(),
            ends: Vec::new(),
            partial: HashMap::new(),
            rest: Vec::new(),
            rest_at: 0,
            target: Target::List,
            used: 0,
            session: 0,
            full: false,
        }
    }

    /// Forgets the unfinished messages of sessions that are gone.
    pub fn forget(&mut self, sessions: &[i32]) {
        for session in sessions {
            self.partial.remove(session);
        }
    }

    /// Begins a poll for a list; the rest of a message that was given in parts comes first.
    pub fn list(&mut self) {
        self.target = Target::List;
        if self.rest_at < self.rest.len() {
            self.bytes.extend_from_slice(&self.rest[self.rest_at..]);
            self.ends.push(self.bytes.len());
            self.rest.clear();
            self.rest_at = 0;
        }
    }

    /// Begins a poll into memory; true where the rest of a long message fills it, or ends in it, without a poll.
    pub fn buffer(&mut self, at: *mut u8, room: usize) -> bool {
        self.target = Target::Buffer { at, room };
        self.used = 0;
        self.full = false;
        let left = &self.rest[self.rest_at..];
        if left.is_empty() {
            return false;
        }
        let take = left.len().min(room);
        // SAFETY: the caller's buffer has `room` bytes.
        unsafe { std::ptr::copy_nonoverlapping(left.as_ptr(), at, take) };
        self.used = take;
        self.rest_at += take;
        if self.rest_at == self.rest.len() {
            self.rest = Vec::new();
            self.rest_at = 0;
        }
        true
    }

    /// Bytes in the caller's buffer; ends the poll into it.
    pub fn filled(&mut self) -> usize {
        self.target = Target::List;
        std::mem::take(&mut self.used)
    }

    /// A message in two pieces; false where it has to wait for the next poll.
    fn message(&mut self, session: i32, head: &[u8], tail: &[u8]) -> bool {
        let length = head.len() + tail.len();
        match self.target {
            Target::List => {
                self.bytes.extend_from_slice(head);
                self.bytes.extend_from_slice(tail);
                self.ends.push(self.bytes.len());
                true
            }
            Target::Buffer { at, room } => {
                if self.full || self.used > 0 && (self.session != session || self.used + length > room) {
                    self.full = true;
                    return false;
                }
                self.session = session;
                if length > room {
                    let mut whole = Vec::with_capacity(length);
                    whole.extend_from_slice(head);
                    whole.extend_from_slice(tail);
                    // SAFETY: the caller's buffer has `room` bytes.
                    unsafe { std::ptr::copy_nonoverlapping(whole.as_ptr(), at, room) };
                    self.used = room;
                    self.rest = whole;
                    self.rest_at = room;
                    self.full = true;
                    return true;
                }
                // SAFETY: checked against the room.
                unsafe {
                    let to = at.add(self.used);
                    std::ptr::copy_nonoverlapping(head.as_ptr(), to, head.len());
                    std::ptr::copy_nonoverlapping(tail.as_ptr(), to.add(head.len()), tail.len());
                }
                self.used += length;
                true
            }
        }
    }

    fn fragment(&mut self, session: i32, flags: u8, data: &[u8]) -> bool {
        if flags & (BEGIN | END) == BEGIN | END {
            return self.message(session, &[], data);
        }
        if flags & BEGIN != 0 {
            let part = self.partial.entry(session).or_default();
            part.clear();
            part.extend_from_slice(data);
            return true;
        }
        let Some(mut part) = self.partial.remove(&session) else {
            return true; // joined in the middle of a message
        };
        if flags & END == 0 {
            part.extend_from_slice(data);
            self.partial.insert(session, part);
            return true;
        }
        if self.message(session, &part, data) {
            return true;
        }
        self.partial.insert(session, part);
        false
    }

    /// The handler of a controlled poll; `clientd` is a collector.
    ///
    /// # Safety
    /// Called by the library during a poll that was given a collector.
    pub unsafe extern "C" fn on_fragment(
        clientd: *mut c_void,
        buffer: *const u8,
        length: usize,
        header: *mut ae::aeron_header_t,
    ) -> u32 {
        if length > FRAME_MAX {
            return CONTINUE;
        }
        // SAFETY: as above.
        let (this, data, values) = unsafe {
            let mut values: ae::aeron_header_values_t = std::mem::zeroed();
            ae::aeron_header_values(header, &mut values);
            (
                &mut *(clientd as *mut Collector),
                std::slice::from_raw_parts(buffer, length),
                values,
            )
        };
        if this.fragment(values.frame.session_id, values.frame.flags, data) {
            CONTINUE
        } else {
            ABORT
        }
    }
}
