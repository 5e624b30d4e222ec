//! `http.services`: from names to things that can be called.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::http::HeaderValue;

use super::Context;
use super::entry_points::federate;
use super::names::{find, local, qualified};
use super::snapshot::RouterPlan;
use super::transports::Transports;
use crate::config::Resources;
use crate::config::dynamic::{self, Dynamic};
use crate::diag::Diagnostic;
use crate::model::ModelPlan;
use crate::model::feedback::Recorder;
use crate::model::masks::{Limits, Store};
use crate::service::health::HealthPlan;
use crate::service::load_balancer::{LoadBalancer, MetricsPlan};
use crate::service::server::{Scheme, Server, ServerState};
use crate::service::sticky::{StickyCookie, value_of};
use crate::service::weighted::{Child, Weighted};
use crate::service::wrr::Cursor;
use crate::service::{Internal, Service};

/// Pools have numbers, so that workers need not hash text.
static NEXT_POOL: AtomicU64 = AtomicU64::new(1);

/// A service, or the name of why there is none.
type Built = Result<Service, ()>;

/// All services by name.
pub(super) struct Services {
    built: BTreeMap<String, Built>,
    internal: BTreeMap<&'static str, Service>,
}

pub(super) fn build(
    context: &Context,
    dynamic: &Dynamic,
    resources: &Resources,
    diagnostics: &mut Vec<Diagnostic>,
) -> Services {
    let transports = Transports::build(context, dynamic, resources, diagnostics);
    let mut builder = Builder {
        context,
        services: &dynamic.http.services,
        resources,
        transports,
        built: BTreeMap::new(),
        path: Vec::new(),
        diagnostics,
    };
    for name in dynamic.http.services.keys() {
        let _ = builder.service(name);
    }
    let internal = BTreeMap::from([
        ("ping", Service::Internal(Internal::Ping(Arc::clone(&context.ping)))),
        (
            "prometheus",
            Service::Internal(Internal::Prometheus(Arc::clone(&context.metrics))),
        ),
        ("sd", Service::Internal(Internal::Discovery)),
        ("federate", Service::Internal(Internal::Federate(federate(context)))),
        ("noop", Service::Internal(Internal::Noop)),
    ]);
    Services {
        built: builder.built,
        internal,
    }
}

impl Services {
    /// The service that a router at `path` names, with its qualified name.
    pub(super) fn find(&self, name: &str, path: &str) -> Result<(String, Service), Box<Diagnostic>> {
        if let Some(internal) = name.strip_suffix("@internal") {
            let known = self.internal.get(internal).cloned();
            let error = || {
                let error = Diagnostic::error(path, format!("the service `{name}` is not built yet"));
                Box::new(error.help(
                    "built are: ping@internal, prometheus@internal, sd@internal, federate@internal, noop@internal",
                ))
            };
            return known.map(|service| (name.to_owned(), service)).ok_or_else(error);
        }
        let (key, built) = find(&self.built, "service", name, path)?;
        match built {
            Ok(service) => Ok((qualified(key), service.clone())),
            Err(()) => Err(Box::new(spoilt(path, name))),
        }
    }

    /// Tells the series of models whether any router can reach them: a version at weight 0 has no accuracy.
    pub(super) fn mark_models<'r>(&self, routers: impl Iterator<Item = &'r RouterPlan>) {
        let mut reached = HashSet::new();
        for router in routers {
            reach(&router.service, &mut reached);
        }
        for balancer in self.balancers() {
            if let Some(model) = &balancer.model {
                model.series.set_active(reached.contains(&Arc::as_ptr(balancer)));
            }
        }
    }

    fn balancers(&self) -> impl Iterator<Item = &Arc<LoadBalancer>> {
        self.built.values().filter_map(|built| match built {
            Ok(Service::LoadBalancer(balancer)) => Some(balancer),
            _ => None,
        })
    }

    pub(super) fn into_balancers(self) -> Vec<Arc<LoadBalancer>> {
        self.balancers().cloned().collect()
    }
}

fn reach(service: &Service, reached: &mut HashSet<*const LoadBalancer>) {
    match service {
        Service::LoadBalancer(balancer) => {
            reached.insert(Arc::as_ptr(balancer));
        }
        Service::Weighted(weighted) => weighted
            .children
            .iter()
            .for_each(|child| reach(&child.service, reached)),
        Service::Internal(_) => {}
    }
}

/// What needs a service that has an error of its own.
fn spoilt(path: impl Into<String>, name: &str) -> Diagnostic {
    Diagnostic::error(
        path,
        format!("the service `{name}` has an error, so this cannot be served"),
    )
    .help(format!("mend `http.services.{}`", local(name)))
}

struct Builder<'a> {
    context: &'a Context,
    resources: &'a Resources,
    services: &'a BTreeMap<String, dynamic::Service>,
    transports: Transports,
    built: BTreeMap<String, Built>,
    /// The services that are being built, outermost first: a name that comes again is a cycle.
    path: Vec<String>,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Builder<'_> {
    fn service(&mut self, name: &str) -> Built {
        if let Some(built) = self.built.get(name) {
            return built.clone();
        }
        let Some(settings) = self.services.get(name) else {
            return Err(());
        };
        self.path.push(name.to_owned());
        let path = format!("http.services.{name}");
        let built = match (&settings.load_balancer, &settings.weighted) {
            (Some(balancer), None) => self
                .load_balancer(name, &path, settings, balancer)
                .map(Service::LoadBalancer),
            (None, Some(weighted)) => self.weighted(name, &path, weighted).map(Service::Weighted),
            (Some(_), Some(_)) => {
                self.fail(Diagnostic::error(path, "two kinds in one service").help("keep one of them"))
            }
            (None, None) => self
                .fail(Diagnostic::error(path, "a service without a kind").help("give it `loadBalancer` or `weighted`")),
        };
        self.path.pop();
        self.built.insert(name.to_owned(), built.clone());
        built
    }

    fn fail<T>(&mut self, error: Diagnostic) -> Result<T, ()> {
        self.diagnostics.push(error);
        Err(())
    }

    fn load_balancer(
        &mut self,
        name: &str,
        path: &str,
        service: &dynamic::Service,
        settings: &dynamic::LoadBalancer,
    ) -> Result<Arc<LoadBalancer>, ()> {
        let full = qualified(name);
        let transport = match self.transports.find(
            &settings.servers_transport,
            &format!("{path}.loadBalancer.serversTransport"),
        ) {
            Ok(transport) => transport,
            Err(error) => return self.fail(*error),
        };
        let mut members: Vec<(i64, Arc<Server>)> = Vec::new();
        for (i, settings) in settings.servers.iter().enumerate().filter(|(_, s)| s.weight > 0) {
            match self.server(&full, settings, &transport) {
                Ok(server) => members.push((settings.weight, Arc::new(server))),
                Err(e) => {
                    let error = Diagnostic::error(format!("{path}.loadBalancer.servers[{i}].url"), e);
                    return self.fail(error.help("write it as http://10.0.0.5:9000"));
                }
            }
        }
        if members.is_empty() {
            let warning = Diagnostic::warning(
                format!("{path}.loadBalancer.servers"),
                "no server with a weight above 0",
            );
            self.diagnostics
                .push(warning.help("every request is answered by 503 `no available server`"));
        }
        // The round robin's identity is the set of servers, not their order.
        members.sort_by(|a, b| a.1.url.cmp(&b.1.url));
        let identity: Vec<String> = members.iter().map(|(w, s)| format!("{}*{w}", s.url)).collect();
        let count = members.len();
        let cursor = self
            .context
            .runtime
            .state("wrr", format!("{full} {}", identity.join(" ")), || Cursor::new(count));
        let (weights, servers) = members.into_iter().unzip();
        let health_check = settings.health_check.as_ref().map(HealthPlan::new);
        let metrics = service
            .metrics
            .as_ref()
            .map(|metrics| self.metrics(metrics, service, &full, &settings.servers, &transport));
        let model = self.model(service, path, &full).map(Arc::new);
        Ok(Arc::new(LoadBalancer {
            series: self.context.metrics.service(&full),
            sticky: settings
                .sticky
                .as_ref()
                .and_then(|s| s.cookie.as_ref())
                .map(|c| StickyCookie::new(c, &full)),
            name: full,
            servers,
            weights,
            cursor,
            pass_host_header: settings.pass_host_header,
            health_check,
            model,
            metrics,
        }))
    }

    /// The service's `model`, with what joins its answers to feedback where feedback is taken.
    fn model(&mut self, service: &dynamic::Service, path: &str, full: &str) -> Option<ModelPlan> {
        let context = self.context;
        let mut plan = ModelPlan::new(service, full, &context.metrics)?;
        if context.settings.feedback.is_none() {
            if service.keep_masks.is_some() {
                let warning =
                    Diagnostic::warning(format!("{path}.keepMasks"), "no mask is kept: nobody can send feedback");
                self.diagnostics
                    .push(warning.help("add feedback: { tokenFile: … } to the static file"));
            }
            return Some(plan);
        }
        let folder = service.keep_masks.as_ref().map(|keep| keep.dir.as_str());
        if let Some(why) = folder.and_then(|folder| self.resources.folder_error(folder)) {
            // The model is served all the same: measuring it must not cost an answer. Its store stays, for the disk may be
            // mended without a reload, and what was kept before must not be removed because of a passing fault.
            let error = Diagnostic::error(format!("{path}.keepMasks.dir"), format!("no mask can be kept: {why}"));
            let help = "let the user that gantry runs as write there, or leave `dir` out to keep masks in memory";
            self.diagnostics.push(error.help(help));
        }
        let masks = service.keep_masks.as_ref().map(|settings| {
            let limits = Limits {
                max_bytes: settings.max_bytes,
                keep_for: settings.keep_for,
            };
            let dir = Some(&settings.dir).filter(|dir| !dir.is_empty()).map(PathBuf::from);
            let make = || Store::new(full, dir, limits);
            let store = context.runtime.state("masks", format!("{full} {}", settings.dir), make);
            (store, limits)
        });
        let version = context.feedback.version((*plan.identity).clone());
        plan.recorder = Some(Recorder::new(Arc::clone(&context.feedback), version, masks));
        Some(plan)
    }

    fn server(
        &self,
        service: &str,
        settings: &dynamic::Server,
        transport: &Arc<crate::upstream::transport::Transport>,
    ) -> Result<Server, String> {
        let url = &settings.url;
        let uri: ::http::Uri = url.parse().map_err(|e| format!("`{url}` is no URL: {e}"))?;
        let (scheme, default_port) = match uri.scheme_str() {
            Some("http") => (Scheme::Http, 80),
            Some("https") => (Scheme::Https, 443),
            Some("h2c") => (Scheme::H2c, 80),
            _ => return Err(format!("`{url}` has no scheme that Gantry speaks: http, https or h2c")),
        };
        let authority = uri.authority().ok_or_else(|| format!("`{url}` has no host"))?;
        let port = authority.port_u16().unwrap_or(default_port);
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let text = authority.as_str().rsplit('@').next().unwrap_or_default();
        let base_path = match settings.preserve_path {
            true => uri.path().trim_end_matches('/').to_owned(),
            false => String::new(),
        };
        let runtime = &self.context.runtime;
        let key = format!("{scheme:?} {host}:{port} {}", transport.identity);
        let pool = runtime.state("pool", key, || NEXT_POOL.fetch_add(1, Ordering::Relaxed));
        Ok(Server {
            scheme,
            port,
            authority: HeaderValue::try_from(text).map_err(|e| e.to_string())?,
            host,
            base_path,
            sticky: value_of(url),
            pool: *pool,
            transport: Arc::clone(transport),
            state: runtime.state("server", format!("{service} {url}"), ServerState::default),
            url: url.clone(),
        })
    }

    /// A server without weight whose URL is none is left out: nothing else asks for it either.
    fn metrics(
        &self,
        metrics: &dynamic::ServiceMetrics,
        service: &dynamic::Service,
        full: &str,
        servers: &[dynamic::Server],
        transport: &Arc<crate::upstream::transport::Transport>,
    ) -> MetricsPlan {
        let servers = servers
            .iter()
            .filter_map(|server| self.server(full, server, transport).ok());
        let by_url: BTreeMap<String, Arc<Server>> = servers.map(|s| (s.url.clone(), Arc::new(s))).collect();
        let model = service.model.clone().unwrap_or_default();
        MetricsPlan {
            path: metrics.path.clone(),
            model: model.name,
            version: model.version,
            servers: by_url.into_values().collect(),
        }
    }

    fn weighted(&mut self, name: &str, path: &str, settings: &dynamic::Weighted) -> Result<Arc<Weighted>, ()> {
        let full = qualified(name);
        let mut children = Vec::new();
        for (i, child) in settings.services.iter().enumerate() {
            let at = format!("{path}.weighted.services[{i}].name");
            if self.path.iter().any(|outer| outer == local(&child.name)) {
                return self.fail(
                    Diagnostic::error(at, format!("the service `{}` contains itself", child.name))
                        .help("a weighted service cannot be among its own children"),
                );
            }
            let key = match find(self.services, "service", &child.name, &at) {
                Ok((key, _)) => key.to_owned(),
                Err(error) => return self.fail(*error),
            };
            let Ok(service) = self.service(&key) else {
                return self.fail(spoilt(at, &child.name));
            };
            children.push((child.weight.max(0), qualified(&key), child.name.clone(), service));
        }
        // Only now is it certain that the service is served: its series must not tell of one that is not.
        let children = children.into_iter().filter_map(|(weight, variant, name, service)| {
            let series = self.context.metrics.variant(&full, &variant, weight);
            // Cookies carry the name as the file writes it, as Traefik's do.
            let sticky = value_of(&name);
            let child = Child {
                name,
                sticky,
                service,
                series,
            };
            (weight > 0).then_some((weight, child))
        });
        let children: Vec<(i64, Child)> = children.collect();
        if children.is_empty() {
            let warning = Diagnostic::warning(format!("{path}.weighted.services"), "the weights sum to 0");
            self.diagnostics
                .push(warning.help("give one of the services a weight above 0: every request is answered by 503"));
        }
        let identity: Vec<String> = children.iter().map(|(w, c)| format!("{}*{w}", c.name)).collect();
        let count = children.len();
        let cursor = self
            .context
            .runtime
            .state("wrr", format!("{full} {}", identity.join(" ")), || Cursor::new(count));
        let (weights, children) = children.into_iter().unzip();
        let cookie = settings.sticky.as_ref().and_then(|s| s.cookie.as_ref());
        Ok(Arc::new(Weighted {
            sticky: cookie.map(|c| StickyCookie::new(c, &full)),
            name: full,
            children,
            weights,
            cursor,
        }))
    }
}
