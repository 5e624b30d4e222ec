//! `serversTransports` and the static default.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Context;
use crate::config::Resources;
use crate::config::dynamic::{Dynamic, ServersTransport};
use crate::diag::Diagnostic;
use crate::tls::client::ClientTls;
use crate::upstream::transport::Transport;

/// Idle connections that Go's transport keeps per host where `maxIdleConnsPerHost` is 0.
const GO_IDLE: i64 = 2;

/// All transports by name; `None` is one that cannot be used.
pub(super) struct Transports {
    named: BTreeMap<String, Option<Arc<Transport>>>,
    default: Option<Arc<Transport>>,
}

impl Transports {
    pub(super) fn build(
        context: &Context,
        dynamic: &Dynamic,
        resources: &Resources,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Self {
        let fixed = &context.settings.servers_transport;
        let fixed = ServersTransport {
            insecure_skip_verify: fixed.insecure_skip_verify,
            root_cas: fixed.root_cas.clone(),
            max_idle_conns_per_host: fixed.max_idle_conns_per_host,
            forwarding_timeouts: fixed.forwarding_timeouts.clone(),
            ..ServersTransport::default()
        };
        let default = one(context, &fixed, "serversTransport", resources, diagnostics);
        let named = dynamic.http.servers_transports.iter().map(|(name, settings)| {
            let path = format!("http.serversTransports.{name}");
            (name.clone(), one(context, settings, &path, resources, diagnostics))
        });
        Self {
            named: named.collect(),
            default,
        }
    }

    /// The transport that a load balancer names.
    pub(super) fn find(&self, name: &str, path: &str) -> Result<Arc<Transport>, Box<Diagnostic>> {
        let broken = || {
            let name = match name {
                "" | "default@internal" => "serversTransport",
                name => name,
            };
            let error = Diagnostic::error(
                path,
                format!("the transport `{name}` has an error, so this cannot be served"),
            );
            Box::new(error.help("mend that transport"))
        };
        if let "" | "default@internal" = name {
            return self.default.clone().ok_or_else(broken);
        }
        let (_, found) = super::names::find(&self.named, "serversTransport", name, path)?;
        found.clone().ok_or_else(broken)
    }
}

fn one(
    context: &Context,
    settings: &ServersTransport,
    path: &str,
    resources: &Resources,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Arc<Transport>> {
    let (tls, found) = ClientTls::build(settings, path, resources, &context.tls);
    diagnostics.extend(found);
    let tls = tls?;
    let timeouts = &settings.forwarding_timeouts;
    let max_idle = match settings.max_idle_conns_per_host {
        0 => Some(GO_IDLE),
        n if n < 0 => None,
        n => Some(n),
    };
    let identity = format!("{settings:?} {:?}", tls.fingerprint());
    Some(Arc::new(Transport {
        dial_timeout: timeouts.dial_timeout,
        response_header_timeout: timeouts.response_header_timeout,
        idle_timeout: timeouts.idle_conn_timeout,
        read_idle_timeout: timeouts.read_idle_timeout,
        ping_timeout: timeouts.ping_timeout,
        max_idle: max_idle.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        tls: Arc::new(tls),
        identity,
    }))
}
