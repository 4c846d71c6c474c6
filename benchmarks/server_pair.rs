//! The floor of benchmarks/server.py: what two small programs without an interpreter need for the same work.
//!
//!     pair fanout ADDRESS CLIENTS FILE BURST PAUSE_NS   frames of 104 bytes from FILE to CLIENTS, one write a burst
//!     pair ticks ADDRESS                                one stamped frame for each byte on stdin, to one client
//!     pair client ADDRESS MESSAGES                      prints the latency of each message in ns
//!
//! ADDRESS is tcp:HOST:PORT or unix:PATH. Built by `rustc -O --edition 2021`, standard library only.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const FRAME: usize = 104;

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

fn listen(address: &str, clients: usize) -> Vec<Box<dyn Stream>> {
    let (scheme, target) = address.split_once(':').unwrap();
    let mut found: Vec<Box<dyn Stream>> = Vec::new();
    if scheme == "unix" {
        let listener = UnixListener::bind(target).unwrap();
        println!("ready");
        while found.len() < clients {
            found.push(Box::new(listener.accept().unwrap().0));
        }
    } else {
        let listener = TcpListener::bind(target).unwrap();
        println!("ready");
        while found.len() < clients {
            let stream = listener.accept().unwrap().0;
            stream.set_nodelay(true).unwrap();
            found.push(Box::new(stream));
        }
    }
    found
}

fn connect(address: &str) -> Box<dyn Stream> {
    let (scheme, target) = address.split_once(':').unwrap();
    if scheme == "unix" {
        Box::new(UnixStream::connect(target).unwrap())
    } else {
        Box::new(TcpStream::connect(target).unwrap())
    }
}

/// Seconds of CPU of this thread, the only one.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn fanout(arguments: &[String]) {
    let clients: usize = arguments[1].parse().unwrap();
    let data = std::fs::read(&arguments[2]).unwrap();
    let burst: usize = arguments[3].parse::<usize>().unwrap() * FRAME;
    let pause = Duration::from_nanos(arguments[4].parse().unwrap());
    let mut peers = listen(&arguments[0], clients);
    std::thread::sleep(Duration::from_millis(200));
    let (start, begin) = (cpu(), Instant::now());
    for (number, part) in data.chunks(burst).enumerate() {
        for peer in peers.iter_mut() {
            peer.write_all(part).unwrap();
        }
        let due = pause * (number as u32 + 1);
        if let Some(wait) = due.checked_sub(begin.elapsed()) {
            std::thread::sleep(wait);
        }
    }
    let used = cpu() - start;
    let _ = std::io::stdin().read(&mut [0u8; 1]); // until the readers have everything
    println!("{}", used);
}

fn ticks(arguments: &[String]) {
    let mut peers = listen(&arguments[0], 1);
    println!("client");
    let mut frame = [0u8; FRAME];
    frame[..6].copy_from_slice(&[0, 0, 0, FRAME as u8, 0xEB, 0x50]);
    let (mut seq, mut bytes) = (0u64, [0u8; 64]);
    loop {
        let size = std::io::stdin().read(&mut bytes).unwrap();
        if size == 0 {
            return;
        }
        for _ in 0..size {
            seq += 1;
            frame[14..22].copy_from_slice(&seq.to_le_bytes());
            frame[30..38].copy_from_slice(&now().to_le_bytes());
            if peers[0].write_all(&frame).is_err() {
                return;
            }
        }
    }
}

fn client(arguments: &[String]) {
    let count: usize = arguments[1].parse().unwrap();
    let mut stream = connect(&arguments[0]);
    let mut found: Vec<u64> = Vec::with_capacity(count);
    let mut buffer = vec![0u8; 1 << 18];
    let mut end = 0;
    while found.len() < count {
        let size = stream.read(&mut buffer[end..]).unwrap();
        assert!(size > 0, "closed early");
        end += size;
        let mut at = 0;
        while end - at >= FRAME {
            let stamp = u64::from_le_bytes(buffer[at + 30..at + 38].try_into().unwrap());
            found.push(now() - stamp);
            let seq = u64::from_le_bytes(buffer[at + 14..at + 22].try_into().unwrap());
            assert_eq!(seq as usize, found.len());
            at += FRAME;
        }
        buffer.copy_within(at..end, 0);
        end -= at;
    }
    let text: Vec<String> = found.iter().map(|n| n.to_string()).collect();
    println!("{}", text.join(" "));
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments[0].as_str() {
        "fanout" => fanout(&arguments[1..]),
        "ticks" => ticks(&arguments[1..]),
        "client" => client(&arguments[1..]),
        other => panic!("unknown way {other}"),
    }
}
