//! provider → parse and validate → compile → swap → probes → sweep: the one way a configuration reaches the data plane.
//!
//! A bad file keeps its last good version; a bad configuration never replaces a good one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;

use crate::compile::snapshot::Snapshot;
use crate::compile::{Compiled, Context, compile};
use crate::config::dynamic::Dynamic;
use crate::config::{self, Decoded, Merged, Resources};
use crate::diag::Diagnostic;
use crate::model::feedback::Recorder;
use crate::model::scrape::Scraper;
use crate::observe::log::LIFECYCLE;
use crate::observe::metrics::{CertificateLabels, ModelSeries, ServedServer};
use crate::provider::file::{FileHandle, FileProvider};
use crate::provider::last_good::{Cause, LastGood};
use crate::provider::{Event, Problem, Reason, SourceFile};
use crate::service::health::Prober;
use crate::service::load_balancer::LoadBalancer;
use crate::service::server::Server;

/// What is wrong in a file.
type Mistakes = Vec<Diagnostic>;

/// The state of reloading.
pub(super) struct Reloader {
    context: Context,
    files: LastGood<Decoded<Dynamic>, Mistakes>,
    /// What is served: equal configuration is not compiled again.
    serving: (Dynamic, Resources),
    /// The last news held a file that does not count.
    failing: bool,
    /// How long the first load took.
    first: Duration,
    published: Option<Arc<ArcSwap<Snapshot>>>,
    provider: Option<FileHandle>,
    prober: Prober,
    scraper: Scraper,
}

impl Reloader {
    /// Loads for the first time.
    ///
    /// # Errors
    /// Everything that is wrong with the files; what is wrong with single objects disables those alone, and is logged.
    pub(super) fn start(context: Context, provider: Option<&mut FileProvider>) -> anyhow::Result<(Self, Compiled)> {
        let begun = Instant::now();
        let mut reloader = Self {
            context,
            files: LastGood::new(),
            serving: (Dynamic::default(), Resources::default()),
            failing: false,
            first: Duration::ZERO,
            published: None,
            provider: provider.as_deref().map(FileProvider::handle),
            prober: Prober::default(),
            scraper: Scraper::default(),
        };
        let files = match provider {
            None => Vec::new(),
            Some(provider) => {
                let event = provider.load().map_err(|problems| {
                    let text =
                        |p: &Problem| format!("error: {}: {}\n  = help: {}", p.path.display(), p.message, p.help);
                    let text: Vec<String> = problems.iter().map(text).collect();
                    anyhow::anyhow!("{}", text.join("\n\n"))
                })?;
                event.files
            }
        };
        let (merged, failures) = reloader.decode(&files);
        if !failures.is_empty() {
            anyhow::bail!(
                "{}",
                failures
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("\n\n")
            );
        }
        let compiled = reloader.compile(&merged);
        reloader.first = begun.elapsed();
        Ok((reloader, compiled))
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// Puts the first snapshot where the workers find it.
    pub(super) fn publish(&mut self, compiled: Compiled) -> Arc<ArcSwap<Snapshot>> {
        let published = Arc::new(ArcSwap::from_pointee(compiled.snapshot));
        self.context.feedback.announce(models(&published.load()));
        self.context.metrics.reload_took(self.first);
        self.note(&published.load(), compiled.certificates, true);
        self.published = Some(Arc::clone(&published));
        published
    }

    /// Reads everything again, changed or not.
    pub(super) fn ask(&self) {
        if let Some(provider) = &self.provider {
            provider.reload_now();
        }
    }

    /// Takes a provider's news.
    pub(super) fn apply(&mut self, event: &Event) {
        let begun = Instant::now();
        for problem in &event.problems {
            tracing::error!(target: LIFECYCLE, "{problem}");
        }
        let (merged, failures) = self.decode(&event.files);
        for failure in &failures {
            tracing::error!(target: LIFECYCLE, "the last good version stays in use\n{failure}");
        }
        let ok = failures.is_empty() && event.problems.iter().all(|p| !p.is_error());
        let was_failing = std::mem::replace(&mut self.failing, !ok);
        let before = std::mem::take(&mut self.serving);
        let resources = self.read_references(&merged.value);
        let same = before.0 == merged.value && before.1 == resources;
        if same && !matches!(event.reason, Reason::Requested) {
            self.serving = before;
            // A file that was mended by taking the mistake back changes nothing but this.
            if !ok || was_failing {
                self.context.metrics.reload(ok, SystemTime::now());
            }
            return;
        }
        let compiled = self.compile_with(&merged, resources);
        self.install(compiled, ok, begun);
    }

    /// One of the two outcomes of a reload: the new snapshot serves from the next request on.
    fn install(&mut self, compiled: Compiled, ok: bool, begun: Instant) {
        let generation = compiled.snapshot.generation;
        let snapshot = Arc::new(compiled.snapshot);
        self.context.feedback.announce(models(&snapshot));
        if let Some(published) = &self.published {
            published.store(Arc::clone(&snapshot));
        }
        self.context.metrics.reload_took(begun.elapsed());
        self.note(&snapshot, compiled.certificates, ok);
        self.probe();
        self.context.runtime.sweep();
        tracing::info!(target: LIFECYCLE, generation, "configuration loaded");
    }

    /// Tells the metrics of a snapshot that is served from now on.
    fn note(&self, snapshot: &Snapshot, certificates: Vec<CertificateLabels>, ok: bool) {
        let metrics = &self.context.metrics;
        let each = |balancer: &Arc<LoadBalancer>| {
            let service = balancer.name.clone();
            let server = move |server: &Arc<Server>| ServedServer {
                service: service.clone(),
                url: server.url.clone(),
                load: Arc::clone(&server.state) as _,
            };
            // Where the servers' own metrics are read, those without weight count too.
            let metrics = balancer.metrics.as_ref().map(|plan| &plan.servers);
            let servers = metrics.unwrap_or(&balancer.servers);
            servers.iter().map(server).collect::<Vec<_>>()
        };
        metrics.set_servers(snapshot.balancers.iter().flat_map(each));
        self.context
            .feedback
            .retire_all_but(models(snapshot).map(|(recorder, _)| recorder));
        metrics.set_certificates(certificates);
        metrics.reload(ok, SystemTime::now());
        metrics.next_generation(Instant::now());
    }

    /// Brings health checks and scrapes in line with the snapshot that is served.
    pub(super) fn probe(&mut self) {
        if let Some(published) = &self.published {
            let snapshot = published.load();
            self.prober.update(&snapshot.balancers, &self.context.metrics);
            self.scraper.update(&snapshot.balancers, &self.context.metrics);
        }
    }

    /// Decodes what changed; gives everything that is good, and what is wrong now.
    fn decode(&mut self, files: &[SourceFile]) -> (Merged, Vec<Failure>) {
        let outcome = self.files.apply(files, |name, text| {
            let decoded = config::decode_dynamic(name, text);
            for diagnostic in decoded
                .diagnostics
                .iter()
                .filter(|d| !d.is_error() || d.object.is_some())
            {
                report(diagnostic);
            }
            if decoded.is_usable() {
                return Ok(decoded);
            }
            Err(decoded.diagnostics.iter().filter(|d| d.is_error()).cloned().collect())
        });
        let failures = outcome.failures.iter().map(|f| Failure(Arc::clone(&f.cause))).collect();
        let good: Vec<&Decoded<Dynamic>> = outcome.good.iter().map(|(_, decoded)| &**decoded).collect();
        let merged = config::merge(good);
        merged.diagnostics.iter().for_each(report);
        (merged, failures)
    }

    fn compile(&mut self, merged: &Merged) -> Compiled {
        let resources = self.read_references(&merged.value);
        self.compile_with(merged, resources)
    }

    fn compile_with(&mut self, merged: &Merged, resources: Resources) -> Compiled {
        let generation = self.context.runtime.next_generation();
        let compiled = compile(&self.context, &merged.value, &resources, generation);
        for diagnostic in &compiled.diagnostics {
            report(&merged.attach(diagnostic.clone()));
        }
        self.serving = (merged.value.clone(), resources);
        compiled
    }

    /// Reads the files that the configuration refers to. They are watched first, so that no change falls in between.
    fn read_references(&self, dynamic: &Dynamic) -> Resources {
        let mut paths = config::references(dynamic);
        paths.extend(config::static_references(&self.context.settings));
        if let Some(provider) = &self.provider {
            provider.set_extra(paths.iter().map(PathBuf::from));
        }
        // Without feedback no mask is kept, and no folder needed.
        let feedback = self.context.settings.feedback.iter();
        let folders = feedback.flat_map(|_| config::folders(dynamic));
        Resources::load(paths).with_folders(folders, true)
    }
}

/// The models of a snapshot whose answers can be judged, and their series.
fn models(snapshot: &Snapshot) -> impl Iterator<Item = (&Recorder, &ModelSeries)> {
    let models = snapshot.balancers.iter().filter_map(|balancer| balancer.model.as_ref());
    models.filter_map(|model| Some((model.recorder.as_ref()?, &model.series)))
}

/// Why a file does not count.
struct Failure(Arc<Cause<Mistakes>>);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.0 {
            Cause::Read(problem) => write!(f, "error: {problem}"),
            Cause::Decode(mistakes) => {
                let text: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
                f.write_str(&text.join("\n\n"))
            }
        }
    }
}

fn report(diagnostic: &Diagnostic) {
    if diagnostic.is_error() {
        tracing::error!("{diagnostic}");
    } else {
        tracing::warn!("{diagnostic}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::static_config::Static;
    use crate::gateway::startup;
    use crate::observe::metrics::Format;

    fn event(text: &str) -> Event {
        let file = SourceFile {
            path: PathBuf::from("dynamic.yaml"),
            text: Ok(Arc::from(text)),
        };
        Event {
            provider: "file",
            files: vec![file],
            problems: Vec::new(),
            reason: Reason::Changed,
        }
    }

    #[tokio::test]
    async fn taking_a_mistake_back_ends_the_failure() {
        let context = startup::context(Static::default()).expect("a context");
        let (mut reloader, compiled) = Reloader::start(context, None).expect("a start");
        let published = reloader.publish(compiled);
        let ok = |reloader: &Reloader| {
            let text = reloader.context.metrics.render(Format::Text004, Instant::now());
            String::from_utf8_lossy(&text).contains("config_last_reload_successful 1\n")
        };
        let good = "http:\n  routers:\n    r: {rule: \"Path(`/a`)\", service: s}\n  services:\n    s: {loadBalancer: {servers: [{url: \"http://a\"}]}}\n";
        reloader.apply(&event(good));
        assert!(ok(&reloader));
        let generation = published.load().generation;
        reloader.apply(&event(&good.replace("rule:", "rulle:")));
        assert!(!ok(&reloader));
        reloader.apply(&event(good));
        assert!(ok(&reloader));
        assert_eq!(published.load().generation, generation, "nothing was compiled anew");
    }
}
