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

/// Why there is no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// The connection had ended before anything of the request went out: here it is again, for another connection.
    Unsent(Box<(Parts, RequestBody)>),
    /// Everything else.
    Failed(ForwardError),
}

impl From<ForwardError> for Unanswered {
    fn from(error: ForwardError) -> Self {
        Self::Failed(error)
    }
}

impl From<Unanswered> for ForwardError {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Unsent(_) => Self::Closed("the connection ended before the request".into()),
            Unanswered::Failed(error) => error,
        }
    }
}

/// Sends a request on a shared connection.
///
/// # Errors
/// See [`Unanswered`].
pub async fn send(
    mut sender: SendRequest<RequestBody>,
    balancer: &LoadBalancer,
    server: &Arc<Server>,
    mut parts: Parts,
    body: RequestBody,
    exchange: &Exchange,
) -> Result<Response, Unanswered> {
    if sender.ready().await.is_err() {
        return Err(Unanswered::Unsent(Box::new((parts, body))));
    }
    let host: HeaderValue = host_of(balancer, server, &parts).clone();
    let absolute = absolute_uri(server, &host, &parts)?;
    let (target, version) = (std::mem::replace(&mut parts.uri, absolute), parts.version);
    parts.version = Version::HTTP_2;
    let asked = parts.headers.remove(header::HOST);
    parts.extensions.clear();
    if body.is_end_stream() && body.size_hint().exact() == Some(0) {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    let answer = sender.try_send_request(Request::from_parts(parts, body));
    let answer = within(
        &exchange.worker.deadlines,
        server.transport.response_header_timeout,
        answer,
    )
    .await
    .ok_or(ForwardError::Timeout)?;
    let answer = match answer {
        Ok(answer) => answer,
        Err(mut error) => match error.take_message() {
            None => return Err(failure(error.error()).into()),
            Some(request) => {
                let (mut parts, body) = request.into_parts();
                (parts.uri, parts.version) = (target, version);
                parts.headers.extend(asked.map(|host| (header::HOST, host)));
                return Err(Unanswered::Unsent(Box::new((parts, body))));
            }
        },
    };
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
