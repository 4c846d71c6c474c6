//! Publishers that came and went, as the conductor reports them.
use std::collections::VecDeque;
use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use libaeron_sys as ae;

const EVENTS_MAX: usize = 1024;

pub type Event = (bool, i32, String, i64);

/// Images that came and went; written by the conductor. The oldest are dropped.
#[derive(Default)]
pub struct Events {
    list: Mutex<VecDeque<Event>>,
    /// Sessions that went, for the collector.
    gone: Mutex<Vec<i32>>,
    any_gone: AtomicBool,
    finished: AtomicBool,
}

impl Events {
    /// Whether the library has let go of it.
    pub fn finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    pub fn take(&self) -> VecDeque<Event> {
        std::mem::take(&mut *self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sessions that went since the last call.
    pub fn take_gone(&self) -> Vec<i32> {
        if !self.any_gone.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut *self.gone.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn finish(&self) {
        self.finished.store(true, Ordering::Release);
    }

    unsafe fn on_image(clientd: *mut c_void, image: *mut ae::aeron_image_t, available: bool) {
        // SAFETY: kept by the client until the library has let go of it; the image lives during the callback.
        let (events, (session, source, position)) = unsafe { (&*(clientd as *const Events), describe(image)) };
        if !available {
            let mut gone = events.gone.lock().unwrap_or_else(PoisonError::into_inner);
            if gone.len() < EVENTS_MAX {
                gone.push(session);
            }
            events.any_gone.store(true, Ordering::Release);
        }
        let mut list = events.list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() == EVENTS_MAX {
            list.pop_front();
        }
        list.push_back((available, session, source, position));
    }

    pub unsafe extern "C" fn on_available(
        clientd: *mut c_void,
        _subscription: *mut ae::aeron_subscription_t,
        image: *mut ae::aeron_image_t,
    ) {
        // SAFETY: the library's callback.
        unsafe { Self::on_image(clientd, image, true) };
    }

    pub unsafe extern "C" fn on_unavailable(
        clientd: *mut c_void,
        _subscription: *mut ae::aeron_subscription_t,
        image: *mut ae::aeron_image_t,
    ) {
        // SAFETY: the library's callback.
        unsafe { Self::on_image(clientd, image, false) };
    }

    pub unsafe extern "C" fn on_closed(clientd: *mut c_void) {
        // SAFETY: kept by the client until this flag is set.
        unsafe { (*(clientd as *const Events)).finish() };
    }
}

/// Session, source and position of an image.
pub unsafe fn describe(image: *mut ae::aeron_image_t) -> (i32, String, i64) {
    // SAFETY: the caller's image is live.
    unsafe {
        let mut constants: ae::aeron_image_constants_t = std::mem::zeroed();
        ae::aeron_image_constants(image, &mut constants);
        let source = if constants.source_identity.is_null() {
            String::new()
        } else {
            CStr::from_ptr(constants.source_identity).to_string_lossy().into_owned()
        };
        (constants.session_id, source, ae::aeron_image_position(image))
    }
}
