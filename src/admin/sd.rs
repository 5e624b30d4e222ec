//! `/sd`: Prometheus finds the models by itself (<https://prometheus.io/docs/prometheus/latest/http_sd/>).
//!
//! Listed is every server of each service with `metrics`, as the snapshot of the request has it: a version that a reload
//! brought is there at once. Servers and services without weight are listed too, for what runs is worth watching before
//! it gets its first request.

use std::borrow::Cow;
use std::collections::BTreeMap;

use ::http::StatusCode;
use percent_encoding::percent_decode_str;
use serde::Serialize;

use crate::compile::snapshot::Snapshot;
use crate::http::{Response, error};
use crate::service::load_balancer::{LoadBalancer, MetricsPlan};
use crate::service::server::Server;

/// A group of targets with common labels, as Prometheus reads it; each of ours has one target.
#[derive(Debug, Serialize)]
struct Group<'s> {
    targets: [String; 1],
    labels: BTreeMap<String, Cow<'s, str>>,
}

/// The list as of `snapshot`.
#[must_use]
pub fn answer(snapshot: &Snapshot) -> Response {
    let groups: Vec<Group<'_>> = targets(snapshot)
        .map(|(balancer, plan, server)| group(&balancer.name, plan, server))
        .collect();
    match serde_json::to_vec(&groups) {
        Ok(text) => super::json(StatusCode::OK, text),
        Err(e) => {
            tracing::error!("cannot write the list of targets: {e}");
            error::status_text(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// Every server whose metrics are meant to be read, in the order of services and URLs.
pub(super) fn targets(
    snapshot: &Snapshot,
) -> impl Iterator<Item = (&LoadBalancer, &MetricsPlan, &std::sync::Arc<Server>)> {
    let with_metrics = |balancer: &'_ std::sync::Arc<LoadBalancer>| balancer.metrics.is_some();
    let balancers = snapshot.balancers.iter().filter(move |balancer| with_metrics(balancer));
    balancers.flat_map(|balancer| {
        let plan = balancer.metrics.iter();
        plan.flat_map(move |plan| plan.servers.iter().map(move |server| (&**balancer, plan, server)))
    })
}

/// The parameters of a query, as labels tell them to Prometheus. Only those whose names can stand in a label: for
/// another one, such as `match[]`, Prometheus before 3.0 would refuse the whole list.
fn parameters(query: &str) -> impl Iterator<Item = (String, Cow<'_, str>)> {
    let fits = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .filter(move |(name, _)| !name.is_empty() && fits(name))
        .map(|(name, value)| (format!("__param_{name}"), percent_decode_str(value).decode_utf8_lossy()))
}

fn group<'s>(service: &'s str, plan: &'s MetricsPlan, server: &'s Server) -> Group<'s> {
    let (path, query) = plan.path.split_once('?').unwrap_or((&plan.path, ""));
    let mut labels = BTreeMap::from([
        ("__metrics_path__".to_owned(), path.into()),
        // What the URL calls h2c, Prometheus can only try as HTTP/1.1.
        ("__scheme__".to_owned(), server.scheme.as_str().into()),
        // Gone after relabelling, unless a rule of the user's keeps it.
        ("__meta_gantry_server_url".to_owned(), server.url.as_str().into()),
        ("service".to_owned(), service.into()),
    ]);
    for (name, value) in [("model", &plan.model), ("version", &plan.version)] {
        if !value.is_empty() {
            labels.insert(name.to_owned(), value.as_str().into());
        }
    }
    for (name, value) in parameters(query) {
        labels.entry(name).or_insert(value);
    }
    Group {
        targets: [format!("{}:{}", Server::bracketed(&server.host), server.port)],
        labels,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_that_is_no_label_does_not_spoil_the_list() {
        let told: Vec<_> = parameters("match[]=up&format=a%20b&&flag&=x&match%5B%5D=y&target_1=").collect();
        let named = |name: &str, value: &'static str| (name.to_owned(), Cow::Borrowed(value));
        assert_eq!(told, [named("__param_format", "a b"), named("__param_target_1", "")]);
    }
}
