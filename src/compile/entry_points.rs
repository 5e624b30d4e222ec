//! What entry points bring along: which ones are defaults, and the routers that Gantry makes itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Context;
use super::routers::Plan;
use super::snapshot::RouterPlan;
use crate::admin::federate::Federate;
use crate::admin::feedback::Feedback;
use crate::config::static_config::{RedirectEntryPoint, Static};
use crate::diag::{Diagnostic, did_you_mean};
use crate::listen::entry_point::EntryPoint;
use crate::middleware::Middleware;
use crate::middleware::redirect_scheme::{RedirectScheme, entry_point_port};
use crate::router::Entry;
use crate::rule;
use crate::service::{Internal, Service};
use crate::tls::server::TlsSetup;

/// The entry point that is made when ping, metrics or feedback want one: Traefik's name for it.
pub(crate) const ADMIN: &str = "traefik";

/// The entry points of a router that names none: those with `asDefault`, else all but the admin one.
pub(super) fn defaults(settings: &Static, entry_points: &[Arc<EntryPoint>]) -> BTreeSet<usize> {
    let is_default = |e: &EntryPoint| settings.entry_points.get(&e.name).is_some_and(|s| s.as_default);
    let chosen = |e: &&Arc<EntryPoint>| match entry_points.iter().any(|e| is_default(e)) {
        true => is_default(e),
        false => e.name != ADMIN,
    };
    entry_points.iter().filter(chosen).map(|e| e.index).collect()
}

/// Adds ACME challenges, ping, metrics, feedback and redirections to the plan of `entry_point`.
pub(super) fn internal(
    context: &Context,
    entry_point: &Arc<EntryPoint>,
    feedback: Option<&Arc<Feedback>>,
    setup: &TlsSetup,
    plan: &mut Plan,
) {
    let settings = &context.settings;
    let tls = settings.entry_points.get(&entry_point.name);
    let tls = tls.and_then(|e| e.http.tls.as_ref());
    // Their rules name no host, so they are reached at hosts of all options. Those that tell or take something want the
    // client certificate that a router without a host would want here.
    let client_auth = setup.client_auth_of(tls.map_or("", |tls| tls.options.as_str()));
    let asks = Asks {
        client_auth,
        refuses_clear: tls.is_some() && client_auth != 0,
    };
    let proves = settings.certificates_resolvers.values().any(|resolver| {
        let acme = resolver.acme.as_ref();
        acme.and_then(|acme| acme.http_challenge.as_ref())
            .is_some_and(|challenge| challenge.entry_point == entry_point.name)
    });
    if proves {
        let service = Service::Internal(Internal::Acme(context.tls.challenges()));
        let router = plan_internal(context, entry_point, "acme-http@internal", Vec::new(), &service);
        add(
            plan,
            router,
            "PathPrefix(`/.well-known/acme-challenge/`)",
            i64::MAX,
            Asks::default(),
        );
    }
    let takes_feedback = settings
        .feedback
        .as_ref()
        .is_some_and(|f| f.entry_point == entry_point.name);
    if let Some(feedback) = feedback.filter(|_| takes_feedback) {
        let service = Service::Internal(Internal::Feedback(Arc::clone(feedback)));
        let router = plan_internal(context, entry_point, "feedback@internal", Vec::new(), &service);
        add(plan, router, "PathPrefix(`/feedback/`)", i64::MAX, asks);
    }
    if let Some(ping) = &settings.ping
        && !ping.manual_routing
        && ping.entry_point == entry_point.name
    {
        let service = Service::Internal(Internal::Ping(Arc::clone(&context.ping)));
        add(
            plan,
            plan_internal(context, entry_point, "ping@internal", Vec::new(), &service),
            "PathPrefix(`/ping`)",
            i64::MAX,
            Asks::default(),
        );
    }
    if let Some(prometheus) = settings.metrics.as_ref().and_then(|m| m.prometheus.as_ref())
        && !prometheus.manual_routing
        && prometheus.entry_point == entry_point.name
    {
        let own = [
            (
                "prometheus@internal",
                "PathPrefix(`/metrics`)",
                Internal::Prometheus(Arc::clone(&context.metrics)),
            ),
            ("sd@internal", "Path(`/sd`)", Internal::Discovery),
            (
                "federate@internal",
                "Path(`/federate`)",
                Internal::Federate(federate(context)),
            ),
        ];
        for (name, rule, service) in own {
            let service = Service::Internal(service);
            let router = plan_internal(context, entry_point, name, Vec::new(), &service);
            add(plan, router, rule, i64::MAX, asks);
        }
    }
    let redirection = settings
        .entry_points
        .get(&entry_point.name)
        .and_then(|e| e.http.redirections.as_ref());
    if let Some(to) = redirection.and_then(|r| r.entry_point.as_ref()) {
        let Some(redirect) = redirect(context, to) else { return };
        let name = format!("{}-to-{}@internal", entry_point.name, to.to.trim_start_matches(':'));
        let noop = Service::Internal(Internal::Noop);
        add(
            plan,
            plan_internal(context, entry_point, &name, vec![Arc::new(redirect)], &noop),
            "HostRegexp(`^.+$`)",
            to.priority,
            Asks::default(),
        );
    }
}

/// What all requests for `/federate` share, whatever the snapshot.
pub(super) fn federate(context: &Context) -> Arc<Federate> {
    let metrics = || Arc::clone(&context.metrics);
    context.runtime.state("federate", "", || Federate::new(metrics()))
}

/// The redirection that an entry point asks for. The start has checked that there is one.
fn redirect(context: &Context, to: &RedirectEntryPoint) -> Option<RedirectScheme> {
    let port_of = |name: &str| {
        let target = context.entry_points.iter().find(|e| e.name == name)?;
        target.address.rsplit(':').next()?.parse().ok()
    };
    let port = entry_point_port(&to.to, port_of).ok()?;
    RedirectScheme::new(&to.scheme, &port.to_string(), to.permanent).ok()
}

/// What is wrong between the parts of the static configuration: entry points that are named and do not exist.
pub(crate) fn static_error(context: &Context) -> Option<Diagnostic> {
    let settings = &context.settings;
    let ping = settings.ping.iter().filter(|p| !p.manual_routing);
    let ping = ping.map(|p| ("ping.entryPoint", p.entry_point.as_str()));
    let metrics = settings.metrics.iter().filter_map(|m| m.prometheus.as_ref());
    let metrics = metrics.filter(|p| !p.manual_routing);
    let metrics = metrics.map(|p| ("metrics.prometheus.entryPoint", p.entry_point.as_str()));
    let feedback = settings.feedback.iter();
    let feedback = feedback.map(|f| ("feedback.entryPoint", f.entry_point.as_str()));
    let known = |name: &str| context.entry_points.iter().any(|e| e.name == name);
    let unknown = ping.chain(metrics).chain(feedback).find(|(_, name)| !known(name));
    if let Some((path, name)) = unknown {
        let error = Diagnostic::error(path, format!("there is no entry point `{name}`"));
        return Some(error.help(which(context, name)));
    }
    if let Some(error) = resolver_error(context) {
        return Some(error);
    }
    settings.entry_points.iter().find_map(|(name, entry_point)| {
        let to = entry_point.http.redirections.as_ref()?.entry_point.as_ref()?;
        let path = format!("entryPoints.{name}.http.redirections.entryPoint");
        match entry_point_port(&to.to, |name| known(name).then_some(1)) {
            Err(error) => {
                let help = format!("{}; a port is written as `:8443`", which(context, &to.to));
                Some(Diagnostic::error(format!("{path}.to"), error).help(help))
            }
            Ok(_) => {
                let error = RedirectScheme::new(&to.scheme, "", to.permanent).err()?;
                Some(Diagnostic::error(format!("{path}.scheme"), error.message).help("write https or http"))
            }
        }
    })
}

/// What is wrong between certificates resolvers and the rest: an entry point that does not exist, a file for two.
fn resolver_error(context: &Context) -> Option<Diagnostic> {
    let resolvers = &context.settings.certificates_resolvers;
    let mut files = BTreeMap::new();
    for (name, resolver) in resolvers {
        let Some(acme) = &resolver.acme else { continue };
        let path = format!("certificatesResolvers.{name}.acme");
        if let Some(challenge) = &acme.http_challenge
            && !context.entry_points.iter().any(|e| e.name == challenge.entry_point)
        {
            let message = format!("there is no entry point `{}`", challenge.entry_point);
            let error = Diagnostic::error(format!("{path}.httpChallenge.entryPoint"), message);
            return Some(error.help(which(context, &challenge.entry_point)));
        }
        if let Some(other) = files.insert(&acme.storage, name) {
            let message = format!(
                "the resolvers `{other}` and `{name}` have one storage file: `{}`",
                acme.storage
            );
            let help = "give each its own file; a copy of Traefik's will do, for each takes what stands under its name";
            return Some(Diagnostic::error(format!("{path}.storage"), message).help(help));
        }
    }
    None
}

/// Which entry point may be meant.
fn which(context: &Context, name: &str) -> String {
    let names: Vec<&str> = context.entry_points.iter().map(|e| e.name.as_str()).collect();
    match did_you_mean(name, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("this file declares: {}", names.join(", ")),
    }
}

/// Whether requests to internal services are counted, and whether they are logged: `addInternals` of either.
pub(super) fn internals(settings: &Static) -> (bool, bool) {
    let counted = settings.metrics.as_ref().is_some_and(|metrics| metrics.add_internals);
    let logged = settings.access_log.as_ref().is_some_and(|log| log.add_internals);
    (counted, logged)
}

fn plan_internal(
    context: &Context,
    entry_point: &EntryPoint,
    name: &str,
    middlewares: Vec<Arc<dyn Middleware>>,
    service: &Service,
) -> RouterPlan {
    let service_name = match service {
        Service::Internal(Internal::Noop) => "noop@internal",
        _ => name,
    };
    let (counted, logged) = internals(&context.settings);
    RouterPlan {
        name: name.to_owned(),
        service_name: service_name.to_owned(),
        middlewares,
        service: service.clone(),
        client_auth: 0,
        series: counted.then(|| context.metrics.router(name, service_name)),
        metrics: counted && entry_point.metrics,
        access_logs: logged && entry_point.access_logs,
    }
}

/// What an internal router asks of its clients.
#[derive(Clone, Copy, Default)]
struct Asks {
    /// Over TLS, see [`RouterPlan::client_auth`].
    client_auth: u32,
    /// Whether it is for TLS only: in clear text, nobody can show a certificate.
    refuses_clear: bool,
}

fn add(plan: &mut Plan, router: RouterPlan, text: &str, priority: i64, asks: Asks) {
    let rule = Arc::new(rule::parse(text).expect("the rules of internal routers are right"));
    // A redirection concerns clear text only; the others answer however they are asked.
    if !router.name.contains("-to-") {
        plan.secure.push(Entry {
            rule: Arc::clone(&rule),
            priority,
            value: Arc::new(RouterPlan {
                client_auth: asks.client_auth,
                ..router.clone()
            }),
        });
    }
    if !asks.refuses_clear {
        plan.plain.push(Entry {
            rule,
            priority,
            value: Arc::new(router),
        });
    }
}
