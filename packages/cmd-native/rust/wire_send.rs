//! One call that offers the same bytes to many sockets, for `cmd_server.sendbuffer`, which owns the rules.

use std::io::{Error, ErrorKind};
use std::os::fd::RawFd;

/// Offer bytes to a socket, without waiting: how many it took, or the number of the system's error.
pub fn offer(socket: RawFd, data: &[u8]) -> Result<usize, i32> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let flags = libc::MSG_DONTWAIT; // Python ignores the signal of a broken pipe
    loop {
        // SAFETY: the bytes are alive; a descriptor that is none is an error.
        let taken = unsafe { libc::send(socket, data.as_ptr().cast(), data.len(), flags) };
        if taken >= 0 {
            return Ok(taken as usize);
        }
        let error = Error::last_os_error();
        match error.kind() {
            ErrorKind::Interrupted => {}
            ErrorKind::WouldBlock => return Err(libc::EAGAIN),
            _ => return Err(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }
}

#[cfg(feature = "python")]
pub fn register(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
    use pyo3::prelude::*;
    use pyo3::types::{PyBytes, PyList};

    /// Offer bytes to each socket: None where all of them took everything, else what each took, or minus its error.
    ///
    /// The GIL is kept: it is never waited, and no other thread can close one of the descriptors meanwhile.
    #[pyfunction]
    fn send_all(sockets: &Bound<'_, PyList>, data: &Bound<'_, PyBytes>) -> PyResult<Option<Vec<i64>>> {
        let sockets: Vec<RawFd> = sockets.extract()?;
        let data = data.as_bytes();
        let mut found: Option<Vec<i64>> = None;
        for (n, socket) in sockets.iter().enumerate() {
            let said = match offer(*socket, data) {
                Ok(taken) => taken as i64,
                Err(number) => -i64::from(number),
            };
            if said != data.len() as i64 && found.is_none() {
                found = Some(vec![data.len() as i64; n]);
            }
            if let Some(found) = &mut found {
                found.push(said);
            }
        }
        Ok(found)
    }
    module.add_function(wrap_pyfunction!(send_all, module)?)
}

#[cfg(test)]
mod tests {
    use super::offer;
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_takes_a_part_then_nothing_and_goes_on_where_it_was() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let data: Vec<u8> = (0..4_000_000_u32).map(|n| n as u8).collect();
        let mut sent = offer(ours.as_raw_fd(), &data).unwrap();
        assert!(sent > 0 && sent < data.len());
        loop {
            match offer(ours.as_raw_fd(), &data[sent..]) {
                Ok(more) => sent += more,
                Err(number) => {
                    assert_eq!(number, libc::EAGAIN);
                    break;
                }
            }
        }
        let mut got = vec![0; sent];
        theirs.read_exact(&mut got).unwrap();
        assert!(got == data[..sent]);
        assert!(offer(ours.as_raw_fd(), &data[sent..]).is_ok());
        drop(theirs);
        assert_eq!(offer(ours.as_raw_fd(), b"x"), Err(libc::EPIPE));
        assert_eq!(offer(-1, b"x"), Err(libc::EBADF));
    }
}
