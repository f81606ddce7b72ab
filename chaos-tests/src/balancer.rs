//! One address in front of all nodes, as a build farm has it: connections go to
//! the nodes in turn, and never to one that does not serve.
//!
//! Each node is asked again and again whether it serves; one that does not say
//! so in time loses the connections that it has, so that their clients notice
//! and come again. Nothing is repeated here and no request is looked at: what
//! was under way fails, and it is the client that tries again.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    time::{sleep, timeout},
};
use weir_proto::reapi::{GetCapabilitiesRequest, capabilities_client::CapabilitiesClient};

use crate::load::Nodes;

/// Between two questions to a node.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// A node that has not answered by then does not serve, on a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Until a node takes a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// The balancer. Connections and listener end when it is dropped.
pub struct Balancer {
    /// Where clients find it.
    pub url: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The nodes that serve, with what tells their connections to end. A std mutex:
/// held for map operations only.
#[derive(Clone, Default)]
struct Serving(Arc<Mutex<BTreeMap<String, watch::Sender<()>>>>);

impl Balancer {
    /// Begins to listen where the calling thread is, for whatever nodes there are
    /// at each moment.
    pub fn start(nodes: Nodes) -> Result<Balancer> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let url = format!("http://{}", listener.local_addr()?);
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("balancer".into())
            .spawn(move || {
                let serving = Serving::default();
                runtime.block_on(async {
                    tokio::select! {
                        () = watch_all(nodes, serving.clone()) => {}
                        () = accept_all(listener, serving) => {}
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(Balancer {
            url,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // The thread ends by it, and its runtime with all connections.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Asks each node, those that come later too.
async fn watch_all(nodes: Nodes, serving: Serving) {
    let mut asked = BTreeMap::new();
    loop {
        let present: Vec<_> = nodes.present().into_iter().map(|(_, url)| url).collect();
        asked.retain(|url, task: &mut tokio::task::JoinHandle<()>| {
            let stays = present.contains(url);
            if !stays {
                task.abort();
                serving.set(url, false);
            }
            stays
        });
        for url in present {
            asked.entry(url.clone()).or_insert_with(|| {
                let serving = serving.clone();
                tokio::spawn(async move {
                    loop {
                        let answer = timeout(ANSWER_LIMIT, serves(&url)).await;
                        serving.set(&url, answer.is_ok_and(|answer| answer.is_ok()));
                        sleep(ASK_EVERY).await;
                    }
                })
            });
        }
        sleep(ASK_EVERY).await;
    }
}

async fn serves(url: &str) -> Result<()> {
    // A new connection each time: one that is there may be half open.
    let mut client = CapabilitiesClient::connect(url.to_owned()).await?;
    client
        .get_capabilities(GetCapabilitiesRequest::default())
        .await?;
    Ok(())
}

async fn accept_all(listener: TcpListener, serving: Serving) {
    let mut turn = 0_usize;
    loop {
        // Out of files for a moment, or a client that went.
        let Ok((client, _)) = listener.accept().await else {
            sleep(ASK_EVERY).await;
            continue;
        };
        turn = turn.wrapping_add(1);
        tokio::spawn(carry(client, serving.clone(), turn));
    }
}

/// Carries one connection until either side ends it, or its node no longer
/// serves. Without a node it is closed at once.
async fn carry(mut client: TcpStream, serving: Serving, turn: usize) {
    for (address, mut gone) in serving.in_turn(turn) {
        let Ok(Ok(mut node)) = timeout(CONNECT_LIMIT, TcpStream::connect(address)).await else {
            continue;
        };
        // A closed socket or a node that does not serve: both end it.
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut node) => {}
            _ = gone.changed() => {}
        }
        return;
    }
}

impl Serving {
    fn set(&self, url: &str, is_serving: bool) {
        let mut serving = self.lock();
        if is_serving {
            serving.entry(url.to_owned()).or_default();
        } else {
            // Its connections see the sender go.
            serving.remove(url);
        }
    }

    /// Those that serve, beginning with another one each turn.
    fn in_turn(&self, turn: usize) -> Vec<(SocketAddr, watch::Receiver<()>)> {
        let serving = self.lock();
        let mut all: Vec<_> = serving
            .iter()
            .filter_map(|(url, sender)| Some((address(url).ok()?, sender.subscribe())))
            .collect();
        if !all.is_empty() {
            let first = turn % all.len();
            all.rotate_left(first);
        }
        all
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn address(url: &str) -> Result<SocketAddr> {
    let rest = url.strip_prefix("http://").context("a URL of http")?;
    Ok(rest.parse()?)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net,
    };

    use super::*;

    /// A connection to a node that no longer serves ends, and the next goes to
    /// one that does.
    #[tokio::test]
    async fn connections_go_to_nodes_that_serve_and_end_with_them() {
        let serving = Serving::default();
        let echo = |word: &'static [u8]| {
            let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    stream.write_all(word).unwrap();
                    thread::spawn(move || stream.read_to_end(&mut Vec::new()));
                }
            });
            url
        };
        let (one, two) = (echo(b"1"), echo(b"2"));
        serving.set(&one, true);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = listener.local_addr().unwrap();
        tokio::spawn(accept_all(listener, serving.clone()));
        let connect = || {
            tokio::task::spawn_blocking(move || {
                let mut stream = net::TcpStream::connect(door).unwrap();
                let mut word = [0];
                stream.read_exact(&mut word).unwrap();
                (stream, word[0])
            })
        };
        let (mut stream, word) = connect().await.unwrap();
        assert_eq!(word, b'1');
        serving.set(&one, false);
        serving.set(&two, true);
        let ended = tokio::task::spawn_blocking(move || stream.read(&mut [0]));
        assert!(!matches!(ended.await.unwrap(), Ok(1..)), "it goes on");
        for _ in 0..3 {
            assert_eq!(connect().await.unwrap().1, b'2');
        }
    }
}
