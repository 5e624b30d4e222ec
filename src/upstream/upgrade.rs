//! Protocol upgrades: after a server's 101 the two connections become one tunnel.

use ::http::StatusCode;
use ::http::header;
use ::http::request::Parts;
use ::http::response;
use bytes::Bytes;
use hyper::upgrade::OnUpgrade;

use super::forward::ForwardError;
use super::http1::Wire;
use super::stream::Stream;
use crate::http::Response;
use crate::http::body::ResponseBody;
use crate::http::exchange::Exchange;

/// A tunnel that begins once the client has its 101.
#[derive(Debug)]
pub struct Tunnel {
    /// The client's side, once hyper has let it go.
    pub client: OnUpgrade,
    /// The server's side.
    pub server: Stream,
    /// What the server said behind its 101.
    pub early: Bytes,
}

/// Takes a server's 101: it must speak of the protocol that was asked for.
///
/// # Errors
/// When it does not, or the client's connection cannot be upgraded.
pub fn accept(
    head: response::Parts,
    wire: Wire,
    request: &mut Parts,
    exchange: &mut Exchange,
) -> Result<Response, ForwardError> {
    let asked = exchange.upgrade.take();
    let got = head.headers.get(header::UPGRADE);
    let same = match (&asked, got) {
        (Some(asked), Some(got)) => asked.as_bytes().eq_ignore_ascii_case(got.as_bytes()),
        _ => false,
    };
    if !same {
        return Err(ForwardError::Protocol(format!(
            "101 to {got:?} where {asked:?} was asked for"
        )));
    }
    let Some(client) = request.extensions.remove::<OnUpgrade>() else {
        return Err(ForwardError::Protocol(
            "an upgrade on a connection that cannot be upgraded".into(),
        ));
    };
    exchange.tunnel = Some(Tunnel {
        client,
        server: wire.stream,
        early: wire.buf.freeze(),
    });
    let mut response = Response::from_parts(head, ResponseBody::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    Ok(response)
}
