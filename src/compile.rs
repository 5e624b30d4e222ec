//! Raw configuration becomes a [`Snapshot`]: pure, no IO, all errors at once.
//!
//! An object with an error disables the routers that use it, and them alone. The same code serves the gateway and
//! `gantry check`.

pub mod certificates;
pub(crate) mod entry_points;
mod names;
mod routers;
mod services;
pub mod snapshot;
mod transports;

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::admin::feedback::{Feedback, Gate};
use crate::admin::ping::Ping;
use crate::config::Resources;
use crate::config::dynamic::Dynamic;
use crate::config::static_config::Static;
use crate::diag::{Diagnostic, Severity};
use crate::listen::entry_point::EntryPoint;
use crate::model::feedback::Index as Answers;
use crate::observe::metrics::{CertificateLabels, Metrics};
use crate::router::Index;
use crate::runtime::Runtime;
use crate::tls::cache::TlsCache;
use crate::tls::server::TlsSetup;
use crate::tls::store::SELF_SIGNED_NAME;
use crate::units::secret::Secret;
use certificates::Wanted;
use snapshot::{EntryPointPlan, Snapshot};

/// What stays the same from one compile to the next.
#[derive(Debug)]
pub struct Context {
    /// The static configuration.
    pub settings: Static,
    /// Its entry points, compiled.
    pub entry_points: Vec<Arc<EntryPoint>>,
    /// State that outlives snapshots.
    pub runtime: Runtime,
    /// Series.
    pub metrics: Arc<Metrics>,
    /// Certificates and TLS settings that were parsed before.
    pub tls: TlsCache,
    /// `ping@internal`
    pub ping: Arc<Ping>,
    /// Which version answered which request.
    pub feedback: Arc<Answers>,
}

/// A snapshot and what was wrong on the way.
#[derive(Debug)]
pub struct Compiled {
    /// What can be served.
    pub snapshot: Snapshot,
    /// Errors and warnings, with paths and without places.
    pub diagnostics: Vec<Diagnostic>,
    /// The certificates that are served, for metrics.
    pub certificates: Vec<CertificateLabels>,
    /// The certificates that resolvers are to get.
    pub wanted: Vec<Wanted>,
}

/// Compiles `dynamic`.
#[must_use]
pub fn compile(context: &Context, dynamic: &Dynamic, resources: &Resources, generation: u64) -> Compiled {
    let mut diagnostics = Vec::new();
    let services = services::build(context, dynamic, resources, &mut diagnostics);
    let (setup, found) = TlsSetup::build(&dynamic.tls, resources, &context.tls);
    diagnostics.extend(found);
    let feedback = feedback(context, resources, &mut diagnostics);
    let (mut plans, wanted) = routers::build(context, dynamic, resources, &services, &setup, &mut diagnostics);
    for (entry_point, plan) in context.entry_points.iter().zip(&mut plans) {
        entry_points::internal(context, entry_point, feedback.as_ref(), &setup, plan);
    }
    services.mark_models(
        plans
            .iter()
            .flat_map(|p| p.plain.iter().chain(&p.secure))
            .map(|e| &*e.value),
    );
    let entry_points = plans
        .drain(..)
        .map(|plan| EntryPointPlan {
            plain: Index::build(plan.plain),
            secure: Index::build(plan.secure),
            tls: plan.tls,
        })
        .collect();
    let certificates = setup
        .store()
        .all()
        .filter(|identity| identity.info.common_name != SELF_SIGNED_NAME)
        .map(|identity| CertificateLabels {
            cn: identity.info.common_name.clone(),
            serial: identity.info.serial.clone(),
            sans: identity.info.names().join(","),
            not_after: identity.info.not_after,
        })
        .collect();
    let snapshot = Snapshot {
        generation,
        entry_points,
        balancers: services.into_balancers(),
    };
    Compiled {
        snapshot,
        diagnostics,
        certificates,
        wanted,
    }
}

/// What takes feedback, where the static configuration has the section. A token that cannot be read any more leaves the
/// last good one in force.
fn feedback(context: &Context, resources: &Resources, diagnostics: &mut Vec<Diagnostic>) -> Option<Arc<Feedback>> {
    let settings = context.settings.feedback.as_ref()?;
    let last = context
        .runtime
        .state("feedback token", "", ArcSwapOption::<Secret>::empty);
    match Feedback::token(settings, resources) {
        Ok(token) => last.store(Some(Arc::new(token))),
        Err(mut error) => {
            // The start has refused to go on without a token: where there is none at all, this is `gantry check`, which may
            // run on another machine than the one that has the secret.
            error.message += if last.load().is_some() {
                "; the last good token stays in force"
            } else {
                error.severity = Severity::Warning;
                "; Gantry does not start without one"
            };
            diagnostics.push(error);
        }
    }
    let token = last.load_full()?;
    let gate = context.runtime.state("feedback", "", Gate::new);
    let (answers, metrics) = (Arc::clone(&context.feedback), Arc::clone(&context.metrics));
    Some(Arc::new(Feedback::new(token, answers, metrics, gate)))
}

#[cfg(test)]
mod tests;
