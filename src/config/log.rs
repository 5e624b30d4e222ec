//! `log` and `accessLog`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::format::{LogLevelWord, NotNegative, StatusRange};
use super::scalar::List;

settings! {
    /// Gantry's own log.
    pub struct Log [empty] {
        /// Lowest level that is written. Default: `ERROR`.
        "level" => level: LogLevel as LogLevelWord;
        /// How lines are written. Default: `common`.
        "format" => format: LogFormat;
        /// File to write to. Default: standard output.
        "filePath" => file_path: String;
        /// Whether no colours are written. Gantry writes none anyway.
        "noColor" => no_color: bool;
    }
    unsupported {
        "otlp": "`filePath` or standard output, read by a collector";
    }
    inert {
        "maxSize": "use logrotate and SIGUSR1";
        "maxAge": "use logrotate and SIGUSR1";
        "maxBackups": "use logrotate and SIGUSR1";
        "compress": "use logrotate and SIGUSR1";
    }
}

choices! {
    /// Lowest level that is written.
    pub enum LogLevel {
        /// Everything.
        "TRACE" => Trace;
        /// What helps to find a fault.
        "DEBUG" => Debug;
        /// What happens.
        "INFO" => Info;
        /// What should be looked at.
        "WARN" | "WARNING" => Warn;
        /// What went wrong.
        #[default]
        "ERROR" => Error;
        /// What ends the process.
        "FATAL" | "PANIC" => Fatal;
    }
}

choices! {
    /// How log lines are written.
    pub enum LogFormat {
        /// For people.
        #[default]
        "common" => Common;
        /// One JSON object a line.
        "json" => Json;
    }
}

settings! {
    /// One line for each request.
    pub struct AccessLog [empty] {
        /// How lines are written. Default: `common`.
        "format" => format: AccessLogFormat;
        /// File to write to; SIGUSR1 opens it anew. Default: standard output.
        "filePath" => file_path: String;
        /// Lines that wait in memory before a write; 0 means that each is written at once. Default: 0.
        "bufferingSize" => buffering_size: i64 as NotNegative;
        /// Whether requests to internal services (ping, metrics) are written. Default: false.
        "addInternals" => add_internals: bool;
        /// Which lines are kept. Default: all.
        "filters" => filters: Option<AccessLogFilters>;
        /// Which fields a line has.
        "fields" => fields: AccessLogFields;
    }
    unsupported {
        "otlp": "`format: json`, read by a collector";
    }
    inert {
        "dualOutput": "it concerns OTLP, which is not built yet";
    }
}

choices! {
    /// How access log lines are written.
    pub enum AccessLogFormat {
        /// Common Log Format with Traefik's own fields at the end.
        #[default]
        "common" => Common;
        /// Common Log Format that ends with the user agent.
        "genericCLF" => GenericClf;
        /// One JSON object a line.
        "json" => Json;
    }
}

settings! {
    /// A line is kept if any one of these holds.
    pub struct AccessLogFilters {
        /// Codes and ranges, such as `200` or `400-499`.
        "statusCodes" => status_codes: Vec<String> as List<StatusRange>;
        /// Whether requests that were tried again are kept. Default: false.
        "retryAttempts" => retry_attempts: bool;
        /// Requests that took longer are kept. Default: 0, none by this.
        "minDuration" => min_duration: Duration;
    }
}

settings! {
    /// Which fields a line has.
    pub struct AccessLogFields {
        /// For fields that `names` does not list. Default: `keep`.
        "defaultMode" => default_mode: FieldMode;
        /// By field.
        "names" => names: BTreeMap<String, FieldMode>;
        /// Headers as fields. Default: none.
        "headers" => headers: AccessLogHeaders;
        /// The query of the path.
        "queryParameters" => query_parameters: AccessLogQuery;
    }
}

choices! {
    /// Whether a field is written.
    pub enum FieldMode {
        /// It is.
        #[default]
        "keep" => Keep;
        /// It is not.
        "drop" => Drop;
        /// `REDACTED` stands in its place.
        "redact" => Redact;
    }
}

settings! {
    /// Headers as fields of a line.
    pub struct AccessLogHeaders {
        /// For headers that `names` does not list. Default: `drop`.
        "defaultMode" => default_mode: FieldMode = FieldMode::Drop;
        /// By header.
        "names" => names: BTreeMap<String, FieldMode>;
    }
}

settings! {
    /// The query of the path in a line.
    pub struct AccessLogQuery {
        /// Whether the query is written. Default: `redact` in Gantry: values are replaced (Traefik: `keep`).
        "defaultMode" => default_mode: FieldMode = FieldMode::Redact;
    }
}
