//! What the `log`, `accessLog` and `metrics` sections mean to `observe`, which knows no configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ::http::HeaderName;

use crate::config::static_config::{AccessLog, AccessLogFormat, FieldMode, Log, LogFormat, LogLevel, Prometheus};
use crate::observe::access_log::{AccessLogOptions, FieldOptions, FilterOptions, Format, Mode};
use crate::observe::log::{Format as LinesFormat, LogOptions};
use crate::observe::metrics::MetricsOptions;

fn file(path: &str) -> Option<PathBuf> {
    (!path.is_empty()).then(|| PathBuf::from(path))
}

impl From<&Log> for LogOptions {
    fn from(log: &Log) -> Self {
        Self {
            // At the default level the lines of the life cycle are shown too.
            level: (log.level != LogLevel::default()).then(|| log.level.as_str().to_owned()),
            format: match log.format {
                LogFormat::Common => LinesFormat::Common,
                LogFormat::Json => LinesFormat::Json,
            },
            file_path: file(&log.file_path),
        }
    }
}

impl From<&AccessLog> for AccessLogOptions {
    fn from(log: &AccessLog) -> Self {
        let filters = log.filters.clone().unwrap_or_default();
        let names = |names: &BTreeMap<String, FieldMode>| {
            names.iter().map(|(name, field)| (name.clone(), mode(*field))).collect()
        };
        Self {
            format: match log.format {
                AccessLogFormat::Common => Format::Common,
                AccessLogFormat::GenericClf => Format::GenericClf,
                AccessLogFormat::Json => Format::Json,
            },
            file_path: file(&log.file_path),
            buffering_size: usize::try_from(log.buffering_size).unwrap_or_default(),
            filters: FilterOptions {
                status_codes: filters.status_codes,
                retry_attempts: filters.retry_attempts,
                min_duration: filters.min_duration,
            },
            fields: FieldOptions {
                default_mode: mode(log.fields.default_mode),
                names: names(&log.fields.names),
                headers_default: mode(log.fields.headers.default_mode),
                headers: names(&log.fields.headers.names),
                query: mode(log.fields.query_parameters.default_mode),
            },
        }
    }
}

fn mode(mode: FieldMode) -> Mode {
    match mode {
        FieldMode::Keep => Mode::Keep,
        FieldMode::Drop => Mode::Drop,
        FieldMode::Redact => Mode::Redact,
    }
}

impl From<&Prometheus> for MetricsOptions {
    fn from(prometheus: &Prometheus) -> Self {
        Self {
            prefix: prometheus.prefix.clone(),
            buckets: prometheus.buckets.clone(),
            entry_points: prometheus.add_entry_points_labels,
            routers: prometheus.add_routers_labels,
            services: prometheus.add_services_labels,
            header_labels: prometheus
                .header_labels
                .iter()
                .filter_map(|(label, header)| Some((label.clone(), HeaderName::try_from(header).ok()?)))
                .collect(),
        }
    }
}
