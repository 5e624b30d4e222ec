//! `http.routers`, and the routers that Gantry makes itself, per entry point.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::certificates::{Asking, Wanted, wanted};
use super::names::{FILE, find, qualified};
use super::services::Services;
use super::snapshot::RouterPlan;
use super::{Context, entry_points};
use crate::config::Resources;
use crate::config::dynamic::{Dynamic, Middleware as MiddlewareSettings, Router};
use crate::diag::Diagnostic;
use crate::listen::entry_point::EntryPoint;
use crate::middleware::chain::Walk;
use crate::middleware::{BuildContext, BuildError, Middleware, registry};
use crate::router::{Entry, shadowed};
use crate::rule::{self, Rule, RuleError};
use crate::service::Service;
use crate::tls::server::{RouterTls, ServerTls, TlsSetup};

/// The highest priority that a user may give; Gantry's own routers stand above it.
const MAX_PRIORITY: i64 = i64::MAX - 1000;

/// The routers of one entry point.
pub(super) struct Plan {
    pub(super) plain: Vec<Entry<Arc<RouterPlan>>>,
    pub(super) secure: Vec<Entry<Arc<RouterPlan>>>,
    pub(super) tls: ServerTls,
}

pub(super) fn build(
    context: &Context,
    dynamic: &Dynamic,
    resources: &Resources,
    services: &Services,
    setup: &TlsSetup,
    diagnostics: &mut Vec<Diagnostic>,
) -> (Vec<Plan>, Vec<Wanted>) {
    let mut compiler = Compiler {
        context,
        dynamic,
        resources,
        services,
        diagnostics,
        reported: HashSet::new(),
    };
    let ready = compiler.ready();
    let plans = context
        .entry_points
        .iter()
        .map(|entry_point| compiler.entry_point(entry_point, &ready, setup));
    let plans = plans.collect();
    compiler.shadowed(&ready);
    let mut asking = compiler.asking(&ready);
    asking.extend(Asking::default_store(&dynamic.tls));
    let wanted = wanted(context, setup, resources, &asking, compiler.diagnostics);
    (plans, wanted)
}

/// A router whose rule is read and whose entry points are known.
struct Ready<'d> {
    name: &'d str,
    path: String,
    settings: &'d Router,
    rule: Arc<Rule>,
    priority: i64,
    entry_points: BTreeSet<usize>,
}

struct Compiler<'a> {
    context: &'a Context,
    dynamic: &'a Dynamic,
    resources: &'a Resources,
    services: &'a Services,
    diagnostics: &'a mut Vec<Diagnostic>,
    /// Path and message of what was reported.
    reported: HashSet<(String, String)>,
}

impl<'a> Compiler<'a> {
    /// Every router that has a rule and at least one entry point.
    fn ready(&mut self) -> Vec<Ready<'a>> {
        let routers = &self.dynamic.http.routers;
        routers
            .iter()
            .filter_map(|(name, settings)| self.read(name, settings))
            .collect()
    }

    fn read(&mut self, name: &'a str, settings: &'a Router) -> Option<Ready<'a>> {
        let path = format!("http.routers.{name}");
        let rule = match rule::parse(&settings.rule) {
            Ok(rule) => Arc::new(rule),
            Err(error) => {
                self.diagnostics
                    .push(rule_error(&format!("{path}.rule"), &settings.rule, error));
                return None;
            }
        };
        for warning in rule.warnings() {
            let at = Diagnostic::warning(format!("{path}.rule"), warning.message.clone());
            self.diagnostics.push(match &warning.help {
                Some(help) => at.help(help.clone()),
                None => at,
            });
        }
        if settings.priority > MAX_PRIORITY {
            let error = Diagnostic::error(
                format!("{path}.priority"),
                format!("the priority is above {MAX_PRIORITY}"),
            );
            self.diagnostics
                .push(error.help("numbers above it are for Gantry's own routers"));
            return None;
        }
        let priority = match settings.priority {
            0 => rule::default_priority(&settings.rule),
            given => given,
        };
        let entry_points = self.entry_points_of(&path, settings);
        if entry_points.is_empty() {
            if settings.entry_points.is_empty() {
                let error = Diagnostic::error(&*path, "no entry point is a default one");
                self.diagnostics.push(error.help("name some in `entryPoints`"));
            }
            return None;
        }
        Some(Ready {
            name,
            path,
            settings,
            rule,
            priority,
            entry_points,
        })
    }

    fn entry_points_of(&mut self, path: &str, settings: &Router) -> BTreeSet<usize> {
        if settings.entry_points.is_empty() {
            return entry_points::defaults(&self.context.settings, &self.context.entry_points);
        }
        let known = &self.context.entry_points;
        let mut found = BTreeSet::new();
        for (i, name) in settings.entry_points.iter().enumerate() {
            match known.iter().find(|e| e.name == *name) {
                Some(entry_point) => {
                    found.insert(entry_point.index);
                }
                None => {
                    let at = format!("{path}.entryPoints[{i}]");
                    let names: Vec<&str> = known.iter().map(|e| e.name.as_str()).collect();
                    let help = match crate::diag::did_you_mean(name, names.iter().copied()) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("the static file declares: {}", names.join(", ")),
                    };
                    self.diagnostics
                        .push(Diagnostic::error(at, format!("there is no entry point `{name}`")).help(help));
                }
            }
        }
        found
    }

    fn entry_point(&mut self, entry_point: &Arc<EntryPoint>, ready: &[Ready<'a>], setup: &TlsSetup) -> Plan {
        let settings = &self.context.settings.entry_points;
        let settings = settings.get(&entry_point.name).cloned().unwrap_or_default();
        let here = || ready.iter().filter(|r| r.entry_points.contains(&entry_point.index));
        let fixed_tls = settings.http.tls.as_ref();
        // Options first: a router whose options cannot be bound to a host must not be served at all.
        let hosts: Vec<Vec<String>> = here().map(|r| tls_hosts(&r.rule)).collect();
        let options_of = |router: &Ready<'a>| {
            let own = router.settings.tls.as_ref().map(|tls| tls.options.as_str());
            own.or(fixed_tls.map(|tls| tls.options.as_str()))
        };
        let secured = here().zip(&hosts).filter_map(|(r, hosts)| {
            Some(RouterTls {
                path: &r.path,
                hosts,
                options: options_of(r)?,
            })
        });
        let (tls, found) = setup.entry_point(secured);
        let refused: BTreeSet<String> = found.iter().filter(|d| d.is_error()).map(|d| d.path.clone()).collect();
        self.report(found);
        let mut plan = Plan {
            plain: Vec::new(),
            secure: Vec::new(),
            tls,
        };
        for router in here() {
            let below = format!("{}.", router.path);
            let is_refused = refused
                .iter()
                .any(|path| *path == router.path || path.starts_with(&below));
            if is_refused {
                continue;
            }
            let tls_options = options_of(router);
            let client_auth = tls_options.map_or(0, |options| setup.client_auth_of(options));
            let Some(entry) = self.router(router, &settings.http.middlewares, entry_point, client_auth) else {
                continue;
            };
            if tls_options.is_some() {
                plan.secure.push(entry);
            } else {
                plan.plain.push(entry);
            }
        }
        plan
    }

    fn router(
        &mut self,
        router: &Ready<'a>,
        before: &[String],
        entry_point: &EntryPoint,
        client_auth: u32,
    ) -> Option<Entry<Arc<RouterPlan>>> {
        let settings = router.settings;
        let name = qualified(router.name);
        let path = format!("{}.service", router.path);
        // Everything that is wrong with the router is told at once, so nothing returns before the end.
        let found = match self.services.find(&settings.service, &path) {
            Ok(found) => Some(found),
            Err(error) => {
                self.report([*error]);
                None
            }
        };
        let mut sound = true;
        let mut middlewares = Vec::new();
        let fixed = before.iter().enumerate();
        let fixed = fixed.map(|(i, m)| (m, format!("entryPoints.{}.http.middlewares[{i}]", entry_point.name)));
        let own = settings.middlewares.iter().enumerate();
        let own = own.map(|(i, m)| (m, format!("{}.middlewares[{i}]", router.path)));
        for (middleware, at) in fixed.chain(own) {
            sound &= self
                .middleware(middleware, &at, &name, &mut Walk::default(), &mut middlewares)
                .is_some();
        }
        let (service_name, service) = found.filter(|_| sound)?;
        let observability = &settings.observability;
        let (counted, logged) = match service {
            Service::Internal(_) => entry_points::internals(&self.context.settings),
            _ => (true, true),
        };
        Some(Entry {
            rule: Arc::clone(&router.rule),
            priority: router.priority,
            value: Arc::new(RouterPlan {
                series: Some(self.context.metrics.router(&name, &service_name)),
                name,
                service_name,
                middlewares,
                service,
                client_auth,
                metrics: counted && observability.metrics.unwrap_or(entry_point.metrics),
                access_logs: logged && observability.access_logs.unwrap_or(entry_point.access_logs),
            }),
        })
    }

    /// Appends the middleware `name` to `out`, and for a chain its members. `None`: the router must not be served.
    fn middleware(
        &mut self,
        name: &str,
        at: &str,
        router: &str,
        walk: &mut Walk,
        out: &mut Vec<Arc<dyn Middleware>>,
    ) -> Option<()> {
        let dynamic = self.dynamic;
        let (key, settings) = match find(&dynamic.http.middlewares, "middleware", name, at) {
            Ok(found) => found,
            Err(error) => {
                self.report([*error]);
                return None;
            }
        };
        let path = format!("http.middlewares.{key}");
        let entered = walk.name().and_then(|()| {
            if settings.chain.is_some() {
                walk.enter(key)
            } else {
                Ok(())
            }
        });
        if let Err(error) = entered {
            self.report([Diagnostic::error(path, error.to_string()).help("take members out of the chains")]);
            return None;
        }
        if let Some(members) = &settings.chain {
            for (i, member) in members.middlewares.iter().enumerate() {
                self.middleware(member, &format!("{path}.chain.middlewares[{i}]"), router, walk, out)?;
            }
            walk.leave();
            return Some(());
        }
        match self.build_middleware(key, settings, router) {
            Ok(built) => {
                out.push(built);
                Some(())
            }
            Err(BuildError {
                path: below,
                message,
                help,
            }) => {
                let mut error = Diagnostic::error(format!("{path}.{below}"), message);
                error.help = help;
                self.report([error]);
                None
            }
        }
    }

    fn build_middleware(
        &mut self,
        key: &str,
        settings: &MiddlewareSettings,
        router: &str,
    ) -> Result<Arc<dyn Middleware>, BuildError> {
        let mut warnings = Vec::new();
        let name = format!("{key}@{FILE}");
        let mut context = BuildContext {
            name: &name,
            router,
            runtime: &self.context.runtime,
            resources: self.resources,
            warnings: &mut warnings,
        };
        let built = registry::build(settings, &mut context);
        self.report(
            warnings
                .into_iter()
                .map(|w| Diagnostic::warning(format!("http.middlewares.{key}"), w)),
        );
        built
    }

    /// Notes diagnostics, each once: a middleware is built for each of its routers.
    fn report(&mut self, found: impl IntoIterator<Item = Diagnostic>) {
        for diagnostic in found {
            if self
                .reported
                .insert((diagnostic.path.clone(), diagnostic.message.clone()))
            {
                self.diagnostics.push(diagnostic);
            }
        }
    }

    /// The routers that want certificates, and those whose entry points do.
    fn asking<'r>(&self, ready: &'r [Ready<'a>]) -> Vec<Asking<'r>>
    where
        'a: 'r,
    {
        let mut asking = Vec::new();
        for router in ready {
            let own = router.settings.tls.as_ref();
            let own = own.map(|tls| (format!("{}.tls", router.path), &tls.cert_resolver, &tls.domains));
            let fixed = || {
                let here = self.context.entry_points.iter();
                let here = here.filter(|e| router.entry_points.contains(&e.index));
                here.filter_map(|entry_point| {
                    let settings = self.context.settings.entry_points.get(&entry_point.name)?;
                    let tls = settings.http.tls.as_ref()?;
                    let path = format!("entryPoints.{}.http.tls", entry_point.name);
                    Some((path, &tls.cert_resolver, &tls.domains))
                })
            };
            // A router's own section replaces the entry point's as a whole.
            let sections: Vec<_> = own.map_or_else(|| fixed().collect(), |own| vec![own]);
            for (path, resolver, domains) in sections.into_iter().filter(|(_, resolver, _)| !resolver.is_empty()) {
                asking.push(Asking {
                    path,
                    key: "certResolver",
                    router: &router.path,
                    resolver,
                    domains,
                    hosts: router.rule.hosts(),
                });
            }
        }
        asking
    }

    /// Warns about routers that can never be reached.
    fn shadowed(&mut self, ready: &[Ready<'a>]) {
        for entry_point in &self.context.entry_points {
            let settings = self.context.settings.entry_points.get(&entry_point.name);
            let all_secure = settings.is_some_and(|s| s.http.tls.is_some());
            for secure in [false, true] {
                let is_here = |r: &&Ready<'a>| {
                    r.entry_points.contains(&entry_point.index) && (all_secure || r.settings.tls.is_some()) == secure
                };
                let here: Vec<&Ready<'a>> = ready.iter().filter(is_here).collect();
                let entry = |r: &&Ready<'a>| Entry {
                    rule: Arc::clone(&r.rule),
                    priority: r.priority,
                    value: (),
                };
                let entries: Vec<Entry<()>> = here.iter().map(entry).collect();
                for (hidden, by) in shadowed(&entries) {
                    let (hidden, by) = (here[hidden], here[by]);
                    let warning = Diagnostic::warning(
                        format!("{}.rule", hidden.path),
                        format!(
                            "the router `{}` is never reached: `{}` has the same rule",
                            hidden.name, by.name
                        ),
                    );
                    self.report([warning.help("change the rule, the priority, or take one of them out")]);
                }
            }
        }
    }
}

/// The hosts that a rule's TLS options are bound to. A rule that some request satisfies whatever its host (`*` among
/// them) cannot have options of its own.
fn tls_hosts(rule: &Rule) -> Vec<String> {
    let mut hosts = rule.hosts();
    if !hosts.is_empty() && rule.needs().hosts.is_none() {
        hosts.push("*".to_owned());
    }
    hosts
}

/// A rule's error, with the place inside of the rule.
fn rule_error(path: &str, rule: &str, error: RuleError) -> Diagnostic {
    let part = rule.get(error.span.clone()).unwrap_or_default();
    let message = match part {
        "" => error.message,
        part => format!("{} at `{part}` (character {})", error.message, error.span.start + 1),
    };
    let mut diagnostic = Diagnostic::error(path, message);
    let example = "a rule is made of matchers, such as Host(`a.example`) && PathPrefix(`/api/`)";
    diagnostic.help = error.help.or_else(|| Some(example.to_owned()));
    diagnostic
}
