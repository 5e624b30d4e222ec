//! From the static configuration to what a gateway needs before it can serve.

use std::path::PathBuf;
use std::sync::Arc;

use ::http::HeaderValue;

use super::{Listeners, StartError};
use crate::admin::feedback::Feedback;
use crate::admin::ping::Ping;
use crate::compile::Context;
use crate::compile::entry_points::{ADMIN, static_error};
use crate::config::Resources;
use crate::config::static_config::{EntryPoint as Settings, FileProvider as FileSettings, Static};
use crate::diag::Diagnostic;
use crate::listen::entry_point::EntryPoint;
use crate::listen::socket;
use crate::observe::access_log::AccessLog;
use crate::observe::log::LIFECYCLE;
use crate::observe::metrics::{Metrics, MetricsOptions};
use crate::provider::file::{FileProvider, POLL, Target};
use crate::runtime::Runtime;
use crate::tls::cache::TlsCache;

/// The port of [`ADMIN`] where the file declares none: Traefik's.
const ADMIN_ADDRESS: &str = ":8080";
/// The entry point of a file without any.
const DEFAULT: (&str, &str) = ("http", ":80");

/// What a start brings about.
pub(super) struct Started {
    pub(super) context: Context,
    pub(super) provider: Option<FileProvider>,
    pub(super) access_log: Option<AccessLog>,
}

/// Processors that this process may use: its affinity mask and its cgroup's quota.
pub(super) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub(super) fn prepare(settings: Static) -> anyhow::Result<Started> {
    let context = context(settings).map_err(|error| StartError(*error))?;
    if let Some(feedback) = &context.settings.feedback {
        let files = Resources::load([feedback.token_file.clone()]);
        Feedback::token(feedback, &files).map_err(StartError)?;
        warn_of_readers(&feedback.token_file);
    }
    let provider = context
        .settings
        .providers
        .file
        .as_ref()
        .map(|file| provider(file, &context.settings));
    let access_log = match &context.settings.access_log {
        Some(log) => Some(
            AccessLog::new(&log.into(), context.metrics.access_log_dropped())
                .map_err(|e| unopened("accessLog.filePath", &e))?,
        ),
        None => None,
    };
    Ok(Started {
        context,
        provider,
        access_log,
    })
}

/// A token that everybody on the machine may read is none.
fn warn_of_readers(file: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(file).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o007 != 0 {
        tracing::warn!("every user of this machine can read the token of `feedback` ({file}): chmod o= {file}");
    }
}

/// A log file that cannot be opened.
pub(crate) fn unopened(path: &str, error: &std::io::Error) -> StartError {
    let error = Diagnostic::error(path, format!("cannot open the log: {error}"));
    StartError(error.help("make its folder, and let the user that gantry runs as write there"))
}

/// The compile context of a static configuration; shared with `gantry check`.
pub(crate) fn context(mut settings: Static) -> Result<Context, Box<Diagnostic>> {
    add_entry_points(&mut settings);
    let prometheus = settings.metrics.as_ref().and_then(|m| m.prometheus.clone());
    let metrics = Metrics::new(prometheus.as_ref().map(MetricsOptions::from).unwrap_or_default());
    let host_name = host_name();
    let entry_points = settings
        .entry_points
        .iter()
        .enumerate()
        .map(|(index, (name, entry_point))| {
            let series = metrics.entry_point(name);
            EntryPoint::new(index, name, entry_point, host_name.clone(), series)
                .map(Arc::new)
                .map_err(|e| Diagnostic::error(format!("entryPoints.{name}"), e))
        });
    let entry_points = entry_points.collect::<Result<Vec<_>, _>>()?;
    let ping = Ping::new(settings.ping.as_ref().map_or(503, |p| p.terminating_status_code));
    let context = Context {
        settings,
        entry_points,
        runtime: Runtime::new(),
        metrics,
        tls: TlsCache::new(),
        ping: Arc::new(ping),
        feedback: Arc::default(),
    };
    match static_error(&context) {
        Some(error) => Err(Box::new(error)),
        None => Ok(context),
    }
}

/// Adds the entry points that Traefik adds: `http` where there is none, `traefik` where ping or metrics want it.
fn add_entry_points(settings: &mut Static) {
    let entry_point = |address: &str| Settings {
        address: address.to_owned(),
        ..Settings::default()
    };
    if settings.entry_points.is_empty() {
        settings
            .entry_points
            .insert(DEFAULT.0.to_owned(), entry_point(DEFAULT.1));
    }
    let ping = settings
        .ping
        .as_ref()
        .filter(|p| !p.manual_routing)
        .map(|p| p.entry_point.as_str());
    let prometheus = settings.metrics.as_ref().and_then(|m| m.prometheus.as_ref());
    let metrics = prometheus.filter(|p| !p.manual_routing).map(|p| p.entry_point.as_str());
    let feedback = settings.feedback.as_ref().map(|f| f.entry_point.as_str());
    if [ping, metrics, feedback].contains(&Some(ADMIN)) && !settings.entry_points.contains_key(ADMIN) {
        settings
            .entry_points
            .insert(ADMIN.to_owned(), entry_point(ADMIN_ADDRESS));
    }
}

fn host_name() -> HeaderValue {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    HeaderValue::try_from(name.trim()).unwrap_or_else(|_| HeaderValue::from_static("localhost"))
}

fn provider(file: &FileSettings, settings: &Static) -> FileProvider {
    let target = if file.filename.is_empty() {
        Target::Directory(PathBuf::from(&file.directory))
    } else {
        Target::Filename(PathBuf::from(&file.filename))
    };
    FileProvider::new(target, file.watch, settings.providers.providers_throttle_duration, POLL)
}

/// Opens every entry point's sockets.
pub(super) fn listen(context: &Context, workers: usize) -> anyhow::Result<Listeners> {
    let mut listeners = Listeners::new();
    for entry_point in &context.entry_points {
        let EntryPoint { name, address, .. } = &**entry_point;
        let opened = socket::resolve(address).and_then(|at| socket::listen(at, workers, entry_point.reuse_port));
        let opened = opened.map_err(|e| {
            let help = match e.kind() {
                std::io::ErrorKind::AddrInUse => "another process listens there: stop it, or choose another port",
                std::io::ErrorKind::PermissionDenied => "ports below 1024 need the capability CAP_NET_BIND_SERVICE",
                _ => "the address is `host:port`, or `:port` for every address of this machine",
            };
            let error = Diagnostic::error(
                format!("entryPoints.{name}.address"),
                format!("cannot listen on `{address}`: {e}"),
            );
            StartError(error.help(help))
        })?;
        let address = opened.first().and_then(|l| l.local_addr().ok());
        tracing::info!(target: LIFECYCLE, entry_point = %name, address = ?address, "listening");
        listeners.insert(entry_point.index, opened);
    }
    Ok(listeners)
}
