//! Two connections as one, after an upgrade: bytes pass both ways until either side ends.

use std::rc::Rc;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};

use super::exchange::Exchange;
use crate::upstream::upgrade::Tunnel;

/// Runs the tunnel on this worker. Its exchange ends with it: metrics and log tell the whole time and all bytes.
pub fn spawn(tunnel: Tunnel, mut exchange: Box<Exchange>) {
    let guard = exchange.worker.tunnel_opened();
    let worker = Rc::clone(&exchange.worker);
    tokio::task::spawn_local(async move {
        let _guard = guard;
        let run = async {
            let Tunnel {
                client,
                mut server,
                early,
            } = tunnel;
            let mut client = TokioIo::new(client.await.map_err(std::io::Error::other)?);
            client.write_all(&early).await?;
            client.flush().await?;
            exchange.bytes_out += early.len() as u64;
            copy_bidirectional(&mut client, &mut server).await
        };
        tokio::select! {
            ended = run => match ended {
                Ok((up, down)) => {
                    exchange.meter.bytes.set(exchange.meter.bytes.get() + up);
                    exchange.bytes_out += down;
                    exchange.complete = true;
                }
                Err(e) => tracing::debug!("a tunnel ended: {e}"),
            },
            () = worker.aborted() => {}
        }
    });
}
