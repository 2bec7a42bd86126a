//! A replica for tests: `replica PORT [DELAY_MS [UNREADY_FILE]]` answers every request with `200` and
//! `CUDA_VISIBLE_DEVICES`, or with `503` while the file exists. The port may be shared (`SO_REUSEPORT`).

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let port = args.next().and_then(|text| text.parse::<u16>().ok()).ok_or(std::io::ErrorKind::InvalidInput)?;
    let delay = args.next().and_then(|text| text.parse().ok()).unwrap_or(0);
    let unready = args.next().map(std::path::PathBuf::from);
    tokio::time::sleep(Duration::from_millis(delay)).await;
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind((std::net::Ipv4Addr::LOCALHOST, port).into())?;
    let listener = socket.listen(64)?;
    println!("listening");
    let devices = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    loop {
        let (mut stream, _) = listener.accept().await?;
        let _ = stream.read(&mut [0_u8; 4096]).await;
        let status = if unready.as_ref().is_some_and(|path| path.exists()) { "503 Not Yet" } else { "200 OK" };
        let text = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{devices}", devices.len());
        let _ = stream.write_all(text.as_bytes()).await;
    }
}
