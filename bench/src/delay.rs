//! A TCP proxy on loopback that makes a way long: whatever passes takes so long in each direction.
//!
//! The end of a stream takes as long as its bytes. The operating system accepts a connection at once, so the delay of
//! its establishment is made up for: the server is connected to after one way, and what the client writes during the
//! first round trip leaves only at its end, as it would have if `connect` had taken that long. A reset arrives as an
//! end. Timers are whole milliseconds, rounded up.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// A way to one server; it ends with this value.
#[derive(Debug)]
pub(crate) struct LongWay {
    pub(crate) at: SocketAddr,
    task: JoinHandle<()>,
}

impl LongWay {
    pub(crate) async fn to(server: SocketAddr, one_way: Duration) -> anyhow::Result<LongWay> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let at = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let mut sockets = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                sockets.spawn(carry(client, server, one_way));
                while sockets.try_join_next().is_some() {}
            }
        });
        Ok(LongWay { at, task })
    }
}

impl Drop for LongWay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(client: TcpStream, server: SocketAddr, one_way: Duration) {
    let began = Instant::now();
    sleep_until(began + one_way).await;
    let Ok(server) = TcpStream::connect(server).await else { return };
    if client.set_nodelay(true).is_err() || server.set_nodelay(true).is_err() {
        return;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = pass(from_client, to_server, one_way, began + 2 * one_way);
    let back = pass(from_server, to_client, one_way, began);
    let (mut there, mut back) = (tokio::spawn(there), tokio::spawn(back));
    // A direction that breaks takes the other with it; one that ends in peace does not.
    tokio::select! {
        peace = &mut there => if matches!(peace, Ok(true)) { drop(back.await) } else { back.abort() },
        peace = &mut back => if matches!(peace, Ok(true)) { drop(there.await) } else { there.abort() },
    }
}

/// Carries one direction; nothing leaves before `earliest`. Returns whether it ended in peace.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, one_way: Duration, earliest: Instant) -> bool {
    let (ahead, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(256);
    let reading = tokio::spawn(async move {
        loop {
            let mut chunk = Vec::with_capacity(64 * 1024);
            let read = from.read_buf(&mut chunk).await;
            let at = Instant::now().max(earliest) + one_way;
            let ended = !matches!(read, Ok(1..));
            if ahead.send((at, chunk)).await.is_err() || ended {
                return read.is_ok();
            }
        }
    });
    while let Some((at, chunk)) = arriving.recv().await {
        sleep_until(at).await;
        if chunk.is_empty() {
            let shut = to.shutdown().await.is_ok();
            return reading.await.unwrap_or(false) && shut;
        }
        if to.write_all(&chunk).await.is_err() {
            reading.abort();
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_and_ends_take_their_time_both_ways_and_arrive_whole() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = server.local_addr().unwrap();
        let one_way = Duration::from_millis(10);
        let way = LongWay::to(at, one_way).await.unwrap();
        let began = Instant::now();
        let mut client = TcpStream::connect(way.at).await.unwrap();
        client.write_all(b"ask").await.unwrap();
        let (mut socket, _) = server.accept().await.unwrap();
        let mut ask = [0; 3];
        socket.read_exact(&mut ask).await.unwrap();
        // Never less: the handshake of a connection is a round trip of its own.
        assert!(began.elapsed() >= 3 * one_way);
        socket.write_all(b"answer").await.unwrap();
        drop(socket);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!((&ask, answer.as_str()), (b"ask", "answer"));
        assert!(began.elapsed() >= 4 * one_way);
    }
}
