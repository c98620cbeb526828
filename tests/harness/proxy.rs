//! A TCP proxy that does to connections what networks do: delay, swallow, cut, and leave one side in the dark.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to bytes on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// They arrive.
    Fair,
    /// They arrive later.
    Slow(Duration),
    /// They do not arrive, and nobody is told; new connections are taken and go nowhere.
    BlackHole,
    /// New connections are refused, old ones go on.
    Closed,
}

#[derive(Debug, Clone, Copy)]
struct State {
    weather: Weather,
    /// How often all connections were cut.
    cuts: u32,
    /// How often all servers were lost without their clients being told.
    losses: u32,
    /// Where new connections lead.
    server: u16,
}

/// A proxy on a free port. Dropping it cuts every connection.
pub struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Stands before a server on this machine.
    pub async fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (state, seen) = watch::channel(State { weather: Weather::Fair, cuts: 0, losses: 0, server });
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if seen.borrow().weather != Weather::Closed {
                    tokio::spawn(carry(client, seen.clone()));
                }
            }
        });
        Self { port, state, accepting }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on.
    pub fn set(&self, weather: Weather) {
        self.state.send_modify(|state| state.weather = weather);
    }

    /// Leads new connections to another server; those that are there stay.
    pub fn lead_to(&self, server: u16) {
        self.state.send_modify(|state| state.server = server);
    }

    /// Closes every connection.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Closes every connection towards the server, and leaves the client's side open ("half-open").
    pub fn lose_server(&self) {
        self.state.send_modify(|state| state.losses += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(mut client: TcpStream, mut seen: watch::Receiver<State>) {
    let born = *seen.borrow();
    // A connection into the dark: made, and never answered.
    if seen.wait_for(|state| state.weather != Weather::BlackHole || state.cuts > born.cuts).await.is_err() {
        return;
    }
    let port = seen.borrow().server;
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut up, mut down) = (seen.clone(), seen.clone());
    let lost = {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        tokio::select! {
            () = pump(&mut from_client, &mut to_server, &mut up) => false,
            () = pump(&mut from_server, &mut to_client, &mut down) => false,
            changed = seen.wait_for(|state| state.cuts > born.cuts || state.losses > born.losses) => {
                changed.is_ok_and(|state| state.losses > born.losses)
            }
        }
    };
    if lost {
        drop(server);
        let mut swallowed = tokio::io::sink();
        tokio::select! {
            _ = tokio::io::copy(&mut client, &mut swallowed) => {}
            _ = seen.wait_for(|state| state.cuts > born.cuts) => {}
        }
    }
}

async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    seen: &mut watch::Receiver<State>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        // What is on its way when the dark falls arrives after it, as TCP sends it again.
        let Ok(state) = seen.wait_for(|state| state.weather != Weather::BlackHole).await.map(|state| *state)
        else {
            return;
        };
        if let Weather::Slow(delay) = state.weather {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
