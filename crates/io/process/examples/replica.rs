//! A replica for tests: `replica PORT [DELAY_MS]` answers every request with `200` and `CUDA_VISIBLE_DEVICES`.

use std::io::{Read, Write};
use std::net::TcpListener;

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let port = args.next().and_then(|text| text.parse::<u16>().ok()).ok_or(std::io::ErrorKind::InvalidInput)?;
    let delay = args.next().and_then(|text| text.parse().ok()).unwrap_or(0);
    std::thread::sleep(std::time::Duration::from_millis(delay));
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("listening");
    let devices = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    loop {
        let (mut stream, _) = listener.accept()?;
        let _ = stream.read(&mut [0_u8; 4096]);
        let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{devices}", devices.len());
    }
}
