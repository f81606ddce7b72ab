//! Connections that take a while in each direction.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// An address that leads to another, `delay` later each way. It takes one
/// connection.
pub(crate) async fn slow(to: String, delay: Duration) -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move {
        let (near, _) = listener.accept().await?;
        let far = TcpStream::connect(to).await?;
        for end in [&near, &far] {
            end.set_nodelay(true)?;
        }
        let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
        tokio::spawn(pass(from_near, to_far, delay));
        tokio::spawn(pass(from_far, to_near, delay));
        Ok::<_, io::Error>(())
    });
    Ok(address)
}

/// Passes bytes on, as many at a time as come, until either end closes.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (send, mut under_way) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some((due, bytes)) = under_way.recv().await {
            sleep_until(due).await;
            let bytes: Vec<u8> = bytes;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        let bytes = buffer[..len].to_vec();
        if send.send((Instant::now() + delay, bytes)).is_err() {
            return;
        }
    }
}
