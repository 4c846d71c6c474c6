//! The text inside a file: plain, gzip, or the member of a zip, with every check that the packing has.
//!
//! Whatever is not surely whole is trouble: the caller then goes the pure way, which says what it is.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use zlib_rs::{Inflate, InflateFlush, Status};

const READ: usize = 256 << 10;

/// Why the text cannot be read; for people who look, the pure way finds its own words.
pub type Trouble = String;

/// How the text is packed; of a zip's member what its directory promises.
#[derive(Clone, Copy, Debug)]
pub enum Packing {
    Plain,
    Gzip,
    Stored { packed: u64, size: u64, crc: u32 },
    Deflate { packed: u64, size: u64, crc: u32 },
}

/// The text of one file, read from its begin to its end.
pub struct Source {
    file: Box<dyn Read + Send>,
    packing: Packing,
    engine: Option<Inflate>,
    members: u64,   // of a gzip file, begun so far
    left: u64,      // packed bytes that were not read yet
    input: Vec<u8>, // packed bytes; those from `at` to `end` are to come
    at: usize,
    end: usize,
    crc: u32,
    size: u64,
    ended: bool,
}

impl Source {
    /// The text whose packed form begins at `offset` of a file.
    pub fn open(path: &Path, offset: u64, packing: Packing) -> Result<Source, Trouble> {
        let mut file = File::open(path).map_err(|error| error.to_string())?;
        if offset > 0 {
            file.seek(SeekFrom::Start(offset)).map_err(|error| error.to_string())?;
        }
        Ok(Source::new(Box::new(file), packing))
    }

    /// The text of what is read from anywhere, from its first byte on.
    pub fn new(file: Box<dyn Read + Send>, packing: Packing) -> Source {
        let (engine, left) = match packing {
            Packing::Plain => (None, u64::MAX),
            Packing::Gzip => (None, u64::MAX), // an engine for every member
            Packing::Stored { packed, .. } => (None, packed),
            Packing::Deflate { packed, .. } => (Some(Inflate::new(false, 15)), packed),
        };
        let input = vec![0; if matches!(packing, Packing::Plain | Packing::Stored { .. }) { 0 } else { READ }];
        Source { file, packing, engine, members: 0, left, input, at: 0, end: 0, crc: 0, size: 0, ended: false }
    }

    /// Whether all was read and is proven whole.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Fill `out`; fewer bytes only at the end.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, Trouble> {
        let mut count = 0;
        while count < out.len() && !self.ended {
            count += match self.packing {
                Packing::Plain | Packing::Stored { .. } => self.copy(&mut out[count..])?,
                Packing::Gzip | Packing::Deflate { .. } => self.inflate(&mut out[count..])?,
            };
        }
        Ok(count)
    }

    fn copy(&mut self, out: &mut [u8]) -> Result<usize, Trouble> {
        let wanted = out.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = if wanted == 0 { 0 } else { read(&mut *self.file, &mut out[..wanted])? };
        if count == 0 {
            if matches!(self.packing, Packing::Stored { .. }) && self.left > 0 {
                return Err("the file ends inside the member".into());
            }
            self.finish()?;
        }
        self.left -= if self.left == u64::MAX { 0 } else { count as u64 };
        self.account(&out[..count])?;
        Ok(count)
    }

    fn inflate(&mut self, out: &mut [u8]) -> Result<usize, Trouble> {
        if self.at == self.end && self.left > 0 {
            self.more()?;
        }
        if self.engine.is_none() {
            // Between the members of a gzip file, or at its begin.
            if self.at == self.end {
                return if self.members == 0 { Err("empty".into()) } else { self.finish().map(|()| 0) };
            }
            if self.members > 0 && self.input[self.at..self.end].iter().all(|byte| *byte == 0) {
                self.at = self.end; // padding of some tools
                return Ok(0);
            }
            self.engine = Some(Inflate::new(true, 31));
            self.members += 1;
        }
        let Some(engine) = &mut self.engine else {
            return Err("no engine".into());
        };
        let (taken, made) = (engine.total_in(), engine.total_out());
        let status = engine
            .decompress(&self.input[self.at..self.end], out, InflateFlush::NoFlush)
            .map_err(|error| error.as_str().to_string())?;
        let (taken, made) = ((engine.total_in() - taken) as usize, (engine.total_out() - made) as usize);
        self.at += taken;
        self.account(&out[..made])?;
        if status == Status::StreamEnd {
            self.engine = None;
            if !matches!(self.packing, Packing::Gzip) {
                self.finish()?;
            }
        } else if taken == 0 && made == 0 && (self.at < self.end || self.left == 0) {
            return Err("the packed text ends early".into());
        }
        Ok(made)
    }

    /// Read packed bytes; at the end of a file that tells no size, nothing is left then.
    fn more(&mut self) -> Result<(), Trouble> {
        let wanted = READ.min(usize::try_from(self.left).unwrap_or(READ));
        let count = read(&mut *self.file, &mut self.input[..wanted])?;
        (self.at, self.end) = (0, count);
        if self.left != u64::MAX {
            if count == 0 {
                return Err("the file ends inside the member".into());
            }
            self.left -= count as u64;
        } else if count == 0 {
            self.left = 0;
        }
        Ok(())
    }

    fn account(&mut self, text: &[u8]) -> Result<(), Trouble> {
        self.size += text.len() as u64;
        if let Packing::Stored { size, .. } | Packing::Deflate { size, .. } = self.packing {
            self.crc = zlib_rs::crc32::crc32(self.crc, text);
            if self.size > size {
                return Err("larger than the zip says".into());
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Trouble> {
        if let Packing::Stored { size, crc, .. } | Packing::Deflate { size, crc, .. } = self.packing {
            if (self.size, self.crc) != (size, crc) {
                return Err("not the size and CRC that the zip says".into());
            }
        }
        self.ended = true;
        Ok(())
    }
}

fn read(file: &mut dyn Read, out: &mut [u8]) -> Result<usize, Trouble> {
    loop {
        match file.read(out) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other.map_err(|error| error.to_string()),
        }
    }
}
