//! HTTP/2 towards servers: hyper's client, one shared connection per worker and server.

use std::sync::Arc;

use ::http::header;
use ::http::request::Parts;
use ::http::{HeaderValue, Version};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::forward::{ForwardError, HTTP2_HANDSHAKE, absolute_uri, host_of};
use super::stream::Stream;
use crate::http::body::{BodyError, RequestBody, ResponseBody};
use crate::http::exchange::Exchange;
use crate::http::local::LocalExecutor;
use crate::http::{Request, Response};
use crate::listen::deadline::within;
use crate::service::load_balancer::LoadBalancer;
use crate::service::server::Server;

/// Window of one stream: enough for a fast network, small enough to bound memory.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
/// Window of the connection.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// Starts HTTP/2 on a new connection and shares it with the worker's other requests.
///
/// # Errors
/// When the handshake fails.
pub async fn connect(
    stream: Stream,
    server: &Arc<Server>,
    exchange: &Exchange,
) -> Result<SendRequest<RequestBody>, ForwardError> {
    let transport = &server.transport;
    let mut builder = Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(256 * 1024);
    if !transport.read_idle_timeout.is_zero() {
        builder
            .keep_alive_interval(transport.read_idle_timeout)
            .keep_alive_timeout(transport.ping_timeout);
    }
    let handshake = within(
        &exchange.worker.deadlines,
        HTTP2_HANDSHAKE,
        builder.handshake(TokioIo::new(stream)),
    );
    let (sender, connection) = handshake
        .await
        .ok_or(ForwardError::Timeout)?
        .map_err(|e| ForwardError::Closed(e.to_string()))?;
    tokio::task::spawn_local(async move {
        if let Err(e) = connection.await {
            tracing::debug!("HTTP/2 connection to a server ended: {e}");
        }
    });
    exchange.worker.pools.put_http2(server, sender.clone());
    Ok(sender)
}

/// Sends a request on a shared connection.
///
/// # Errors
/// See [`ForwardError`].
pub async fn send(
    mut sender: SendRequest<RequestBody>,
    balancer: &LoadBalancer,
    server: &Arc<Server>,
    mut parts: Parts,
    body: RequestBody,
    exchange: &Exchange,
) -> Result<Response, ForwardError> {
    let host: HeaderValue = host_of(balancer, server, &parts).clone();
    parts.uri = absolute_uri(server, &host, &parts)?;
    parts.version = Version::HTTP_2;
    parts.headers.remove(header::HOST);
    parts.extensions.clear();
    if body.is_end_stream() && body.size_hint().exact() == Some(0) {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    sender.ready().await.map_err(|e| ForwardError::Closed(e.to_string()))?;
    let answer = sender.send_request(Request::from_parts(parts, body));
    let answer = within(
        &exchange.worker.deadlines,
        server.transport.response_header_timeout,
        answer,
    )
    .await
    .ok_or(ForwardError::Timeout)?
    .map_err(|e| failure(&e))?;
    let (mut head, body) = answer.into_parts();
    head.version = Version::HTTP_11;
    let body = if body.is_end_stream() {
        ResponseBody::Empty
    } else {
        ResponseBody::boxed(body.map_err(|e| BodyError::Server(e.to_string())))
    };
    Ok(Response::from_parts(head, body))
}

/// A failed body of the client comes back as the source of hyper's error.
fn failure(error: &hyper::Error) -> ForwardError {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(body) = inner.downcast_ref::<BodyError>() {
            return ForwardError::Body(body.clone());
        }
        source = inner.source();
    }
    ForwardError::Closed(error.to_string())
}
