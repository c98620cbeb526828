//! Serves HTTP/1.1 with the limits `axum::serve` lacks: a header deadline, a connection cap, a drain.

mod connection_limit;
mod stream;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Request, Version, header};
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use opentelemetry::trace::FutureExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use connection_limit::{ConnectionSlot, Connections, ReceivedBody};
use stream::ClientStream;

/// How long requests under way may take to end once the server is asked to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a connection without a request stays open once the server is asked to stop.
const FIRST_REQUEST_GRACE: Duration = Duration::from_millis(300);
/// A failing accept (out of file descriptors) is tried again after this.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What a server grants its clients.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a client may take to send a request's head, counted from its first byte, or from the moment the
    /// connection was made.
    pub header_timeout: Duration,
    /// How long a connection is kept between two requests.
    pub idle_timeout: Duration,
    /// Connections at once. One more closes the one whose client has kept the gateway waiting for longest; while every
    /// one of them has a request under way, the new one is closed.
    pub max_connections: usize,
}

/// Whether the request names the host it is for exactly once and in a valid form (RFC 9112 §3.2). HTTP/1.0 knew no
/// `Host`.
pub fn has_valid_host<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => request.version() < Version::HTTP_11,
        (Some(host), None) => {
            let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
            authority.is_some_and(|authority| {
                let rest = authority.as_str().strip_prefix(authority.host());
                let is_port = |rest: &str| {
                    let port = rest.strip_prefix(':');
                    rest.is_empty() || port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
                };
                !authority.host().is_empty() && rest.is_some_and(is_port)
            })
        }
        (Some(_), Some(_)) => false,
    }
}

/// Serves `router` on `listener` until `shutdown`, then finishes the requests under way.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: CancellationToken) {
    // Also ends the connections when this future is dropped: none must outlive what its router needs.
    let closing = shutdown.child_token();
    let _closed_when_dropped = closing.clone().drop_guard();
    let slots = Arc::new(Connections::new(limits.max_connections));
    let tasks = TaskTracker::new();
    let take = |(stream, peer): (TcpStream, SocketAddr)| {
        let Some(slot) = Connections::admit(&slots, &closing) else {
            tracing::debug!("closed a new connection: every other one is at work");
            return;
        };
        let connection = connection(stream, peer, router.clone(), limits, slot);
        tasks.spawn(connection.with_current_context());
    };
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => take(accepted),
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections at the moment");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    // The kernel has accepted these already: closing the listener would reset them.
    while let Some(accepted) = tokio::task::unconstrained(listener.accept()).now_or_never() {
        if let Ok(accepted) = accepted {
            take(accepted);
        }
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "stopped before every connection ended");
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    slot: ConnectionSlot,
) {
    // Small answers must not wait for the acknowledgement of the last one.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let slot = Arc::new(slot);
    let answering = Arc::clone(&slot);
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, slot) = (router.clone(), Arc::clone(&answering));
        async move {
            let mut request = request.map(|body| Body::new(ReceivedBody::new(body, Arc::clone(&slot))));
            request.extensions_mut().insert(ConnectInfo(peer));
            slot.note_request();
            let mut answer = router.oneshot(request).await.unwrap_or_else(|never| match never {});
            if !slot.wait_for_client() {
                // The rest of the body is not read, so that the connection cannot be used again: say so
                // before the client sends its next request into it.
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut serving = std::pin::pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            // Judged by the slot, which distinguishes an idle connection from half a head.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(ClientStream::new(stream, Arc::clone(&slot))), service)
    );
    let closed = async {
        slot.closing().await;
        // What was only just connected is about to send its first request.
        if !slot.had_request() {
            tokio::time::sleep(FIRST_REQUEST_GRACE).await;
        }
    };
    let result = tokio::select! {
        biased;
        result = &mut serving => result,
        () = slot.evicted() => return,
        () = slot.overdue(limits.header_timeout, limits.idle_timeout) => return,
        () = closed => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                result = &mut serving => result,
                () = slot.evicted() => return,
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}
