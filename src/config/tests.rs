//! Decoding as a whole: Traefik's rules, the bounds, and the messages of one file for each kind of mistake.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::dynamic::Strategy;
use super::service::SameSite;
use super::settings::Keys;
use super::*;

fn dynamic(text: &str) -> Dynamic {
    let decoded = decode_dynamic("dyn.yml", text);
    let shown: Vec<String> = decoded.diagnostics.iter().map(ToString::to_string).collect();
    assert!(shown.is_empty(), "{text}\n{}", shown.join("\n"));
    decoded.value
}

/// The first error of a dynamic file.
fn error(text: &str) -> String {
    let decoded = decode_dynamic("dyn.yml", text);
    decoded
        .diagnostics
        .iter()
        .find(|d| d.is_error())
        .map(ToString::to_string)
        .unwrap_or_default()
}

const SEED: &str = r#"
http:
  routers:
    mri-router:
      rule: "Host(`mri.example.com`) && PathPrefix(`/segment`)"
      service: mri-service
      middlewares:
        - auth
        - ratelimit
  services:
    mri-service:
      loadBalancer:
        servers:
          - url: "http://mri-model-1:8080"
          - url: "http://mri-model-2:8080"
        healthCheck:
          path: /health
          interval: "10s"
  middlewares:
    auth:
      basicAuth:
        users:
          - "admin:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/"
    ratelimit:
      rateLimit:
        average: 100
        burst: 50
"#;

#[test]
fn the_example_is_decoded() {
    let config = dynamic(SEED);
    let router = &config.http.routers["mri-router"];
    assert_eq!(router.middlewares, ["auth", "ratelimit"]);
    let balancer = config.http.services["mri-service"].load_balancer.as_ref().unwrap();
    assert_eq!(balancer.servers[1].url, "http://mri-model-2:8080");
    assert_eq!((balancer.servers[1].weight, balancer.pass_host_header), (1, true));
    assert_eq!(balancer.strategy, Strategy::Wrr);
    let check = balancer.health_check.as_ref().unwrap();
    assert_eq!(
        (check.interval, check.timeout),
        (Duration::from_secs(10), Duration::from_secs(5))
    );
    assert_eq!((check.rise, check.fall), (1, 3));
    let limit = config.http.middlewares["ratelimit"].rate_limit.as_ref().unwrap();
    assert_eq!(
        (limit.average, limit.burst, limit.period),
        (100, 50, Duration::from_secs(1))
    );
}

#[test]
fn keys_match_in_any_case_and_names_keep_theirs() {
    let config = dynamic("HTTP: {ROUTERS: {Mri: {RULE: x, Service: s, entrypoints: web}}}");
    assert_eq!(config.http.routers["Mri"].entry_points, ["web"]);
    assert!(!config.http.routers.contains_key("mri"));
}

#[test]
fn scalars_may_be_quoted_and_lists_written_with_commas() {
    let config = dynamic(
        "http: {routers: {r: {rule: x, service: s, priority: '7', middlewares: 'a, b,c'}}, \
         services: {s: {loadBalancer: {passHostHeader: 'False', servers: [{url: 'http://a', weight: \"3\"}], \
         sticky: {cookie: {secure: T, sameSite: lax}}, responseForwarding: {flushInterval: -1}}}}}",
    );
    let router = &config.http.routers["r"];
    assert_eq!((router.priority, router.middlewares.join("|").as_str()), (7, "a|b|c"));
    let balancer = config.http.services["s"].load_balancer.as_ref().unwrap();
    assert!(!balancer.pass_host_header);
    assert_eq!(balancer.servers[0].weight, 3);
    let cookie = balancer.sticky.as_ref().unwrap().cookie.as_ref().unwrap();
    assert_eq!(
        (cookie.secure, cookie.same_site, cookie.path.as_str()),
        (true, Some(SameSite::Lax), "/")
    );
    assert_eq!(balancer.response_forwarding.flush_interval, None, "negative: at once");
}

#[test]
fn line_breaks_in_header_values_become_blanks() {
    let config = dynamic(
        "http:\n  middlewares:\n    h:\n      headers:\n        customResponseHeaders:\n          X-Folded: >\n            \
         one\n            two\n          X-Lines: |\n            one\n            two\n        contentSecurityPolicy: |\n          \
         default-src 'self';\n          img-src *\n",
    );
    let headers = config.http.middlewares["h"].headers.as_ref().unwrap();
    assert_eq!(headers.custom_response_headers["X-Folded"], "one two");
    assert_eq!(headers.custom_response_headers["X-Lines"], "one two");
    assert_eq!(headers.content_security_policy, "default-src 'self'; img-src *");
}

#[test]
fn sections_that_may_be_empty() {
    for (text, present) in [("{}", true), ("true", true), ("false", false)] {
        let config = dynamic(&format!(
            "http: {{routers: {{r: {{rule: x, service: s, tls: {text}}}}}}}"
        ));
        assert_eq!(config.http.routers["r"].tls.is_some(), present, "tls: {text}");
    }
    let config = dynamic("http:\n  routers: {}\n  services: {}\n  middlewares: {b: {buffering: {}}}\ntls: {}\n");
    assert_eq!(
        config.http.middlewares["b"]
            .buffering
            .as_ref()
            .unwrap()
            .mem_request_body_bytes,
        1 << 20
    );
    for text in ["", "# nothing\n", "---\n", "http: {}\n", "{}"] {
        assert_eq!(dynamic(text), Dynamic::default(), "{text:?}");
    }
}

#[test]
fn a_key_without_a_value_is_absent_from_a_dynamic_file() {
    let text = "http:\n  routers: {r: {rule: x, service: s, tls: , middlewares: }, gone: }\n  \
                services: {s: {loadBalancer: {servers: [{url: 'http://a'}], healthCheck: , sticky: {cookie: }}}}\n\
                tcp:\n";
    let decoded = decode_dynamic("dyn.yml", text);
    assert!(!decoded.has_errors(), "{:?}", decoded.diagnostics);
    assert_eq!(decoded.diagnostics.len(), 6, "each is warned about");
    let http = &decoded.value.http;
    assert_eq!(http.routers.keys().collect::<Vec<_>>(), ["r"]);
    assert_eq!(http.routers["r"].tls, None, "without a value it is not there");
    let balancer = http.services["s"].load_balancer.as_ref().unwrap();
    assert_eq!(balancer.health_check, None);
    assert_eq!(balancer.sticky.as_ref().unwrap().cookie, None);
}

#[test]
fn a_bad_value_spoils_its_object_only() {
    let decoded = decode_dynamic(
        "dyn.yml",
        "http: {middlewares: {bad: {ipAllowList: {sourceRange: [mars]}}, good: {addPrefix: {prefix: /a}}}}",
    );
    assert!(decoded.is_usable() && decoded.has_errors());
    assert!(decoded.value.http.middlewares.contains_key("good"));
    assert!(!decoded.value.http.middlewares.contains_key("bad"));
    assert!(decoded.broken.contains("http.middlewares.bad"));
    let decoded = decode_dynamic(
        "dyn.yml",
        "http: {middlewares: {bad: {ipAllowList: {sourceRnge: [mars]}}}}",
    );
    assert!(!decoded.is_usable(), "an unknown key spoils the file");
}

#[test]
fn a_section_that_protects_is_never_left_out_silently() {
    for text in [
        "basicAuth: {users:}",
        "basicAuth: {users: []}",
        "basicAuth: {}",
        "basicAuth: ~",
        "ipAllowList: {sourceRange:}",
        "ipAllowList: {sourceRange: []}",
        "ipAllowList: {sourceRange: ''}",
        "digestAuth: {users: [a]}",
        "forwardAuth: {address: 'http://a'}",
    ] {
        let decoded = decode_dynamic("dyn.yml", &format!("http: {{middlewares: {{m: {{{text}}}}}}}"));
        assert!(decoded.has_errors(), "{text}");
        assert!(
            !decoded.is_usable() || decoded.value.http.middlewares.is_empty(),
            "{text}"
        );
    }
}

#[test]
fn anchors_and_merge_keys() {
    let config = dynamic(
        "x-base: &base {service: s, priority: 3, middlewares: [a]}\n\
         X-other: &other {priority: 9, rule: other, service: o}\n\
         http:\n  routers:\n    a: {<<: *base, rule: one, priority: 5}\n    b: {<<: [*base, *other]}\n    c: *other\n",
    );
    assert_eq!(config.http.routers["a"].priority, 5, "the section itself wins");
    assert_eq!(config.http.routers["a"].middlewares, ["a"]);
    assert_eq!(config.http.routers["c"].service, "o");
    assert_eq!(
        (
            config.http.routers["b"].priority,
            config.http.routers["b"].rule.as_str()
        ),
        (3, "other")
    );
}

#[test]
fn byte_order_mark_and_carriage_returns() {
    let text = format!("\u{feff}{}", SEED.replace('\n', "\r\n"));
    assert_eq!(dynamic(&text), dynamic(SEED));
    let message = error("\u{feff}http:\r\n  routers:\r\n    a: {rul: x}\r\n");
    assert!(message.contains("dyn.yml:3:9"), "{message}");
}

#[test]
fn hostile_texts_are_refused_in_bounded_time() {
    let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (name, before) in ('b'..='i').zip('a'..) {
        let list = vec![format!("*{before}"); 10].join(",");
        writeln!(bomb, "{name}: &{name} [{list}]").unwrap();
    }
    let merge_bomb = {
        let mut text = "x-a: &a {k: v}\n".to_owned();
        for (name, before) in ('b'..='z').zip('a'..) {
            writeln!(text, "x-{name}: &{name} {{l: *{before}, m: *{before}}}").unwrap();
        }
        text
    };
    let deep_block: String = (0..5000).fold(String::new(), |mut text, level| {
        writeln!(text, "{}a:", " ".repeat(level)).unwrap();
        text
    });
    for (text, want) in [
        ("[".repeat(5000), "nested deeper than 64"),
        ("{a: ".repeat(5000), "nested deeper than 64"),
        ("- ".repeat(5000), "nested deeper than 64"),
        ("? ".repeat(5000), "a key must be"),
        (deep_block, "nested deeper than 64"),
        (bomb, "aliases of this file stand for more than"),
        (merge_bomb, "aliases of this file stand for more than"),
        (format!("a: {}", "x".repeat(yaml::LONGEST_TEXT)), "bytes"),
        ("a: \u{0}b".to_owned(), "not valid YAML"),
        ("&a : ".repeat(3000), "not valid YAML"),
        ("!!".repeat(3000), ""),
        ("\"".repeat(3001), ""),
        ("a: |".repeat(3000), ""),
        ("%".repeat(3000), ""),
        (": ".repeat(3000), ""),
    ] {
        let begun = Instant::now();
        let message = error(&text);
        let head: String = text.chars().take(20).collect();
        assert!(!message.is_empty() && message.contains(want), "{head:?}: {message}");
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{head:?} took {:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn every_beginning_of_a_file_is_taken_or_refused() {
    for (end, _) in SEED.char_indices() {
        let decoded = decode_dynamic("dyn.yml", &SEED[..end]);
        for diagnostic in &decoded.diagnostics {
            assert!(
                diagnostic.help.is_some() && !diagnostic.to_string().is_empty(),
                "{diagnostic}"
            );
        }
        let _ = recognise(&SEED[..end]);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Files with a piece replaced by what YAML cares about.
    #[test]
    fn damaged_files_make_messages_not_panics(
        at in 0..SEED.len(), length in 0..40_usize, piece in "[\\[\\]{}&*!|>%@`'\",:\\-? \n\ta-zé漢0-9#~<]{0,12}",
    ) {
        let mut text = SEED.to_owned();
        text.replace_range(at..(at + length).min(SEED.len()), &piece);
        let decoded = decode_dynamic("dyn.yml", &text);
        for diagnostic in &decoded.diagnostics {
            proptest::prop_assert!(!diagnostic.to_string().is_empty() && diagnostic.to_json().is_object());
        }
        let _ = decode_static("gantry.yaml", &text);
    }
}

#[test]
fn twenty_thousand_routers_are_read() {
    let mut text = "http:\n  routers:\n".to_owned();
    for index in 0..20_000 {
        writeln!(
            text,
            "    r{index}:\n      rule: \"Host(`h{index}`)\"\n      service: s"
        )
        .unwrap();
    }
    let begun = Instant::now();
    assert_eq!(dynamic(&text).http.routers.len(), 20_000);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn a_flood_of_errors_is_cut() {
    let mut text = "http:\n  routers:\n".to_owned();
    for index in 0..5000 {
        writeln!(text, "    r{index}: {{rul: x, service: s}}").unwrap();
    }
    let decoded = decode_dynamic("dyn.yml", &text);
    assert_eq!(decoded.diagnostics.len(), 501);
    assert!(
        decoded.diagnostics[500].message.contains("4500 more"),
        "{}",
        decoded.diagnostics[500].message
    );
}

#[test]
fn places_of_paths() {
    let decoded = decode_dynamic("dyn.yml", SEED);
    for (path, want) in [
        ("http.routers.mri-router", "mri-router"),
        (
            "http.routers.mri-router.rule",
            "\"Host(`mri.example.com`) && PathPrefix(`/segment`)\"",
        ),
        ("http.routers.mri-router.middlewares[1]", "ratelimit"),
        ("http.routers.mri-router.tls.options", "mri-router"),
        (
            "http.services.mri-service.loadBalancer.servers[1].url",
            "\"http://mri-model-2:8080\"",
        ),
        ("HTTP.middlewares.auth.basicauth.usersFile", "basicAuth"),
    ] {
        let place = decoded.locate(path);
        assert_eq!(&place.source.text[place.span], want, "{path}");
    }
    assert_eq!(decoded.locate("tcp.routers.x").span, 0..0);
    let dotted = decode_dynamic(
        "dyn.yml",
        "http: {routers: {a.b: {rule: one, service: s}, a: {rule: two, service: s}}}",
    );
    let place = dotted.locate("http.routers.a.b.rule");
    assert_eq!(&place.source.text[place.span], "one");
}

#[test]
fn kinds_of_files() {
    for (text, want) in [
        (SEED, Kind::Dynamic),
        ("entryPoints: {web: {address: ':80'}}", Kind::Static),
        ("PROVIDERS: {file: {directory: x}}", Kind::Static),
        ("tls: {options: {}}", Kind::Dynamic),
        ("tcp: {}", Kind::Dynamic),
        ("certificatesResolvers: {}", Kind::Static),
        ("htpp:\n  routers: {}", Kind::Dynamic),
        ("entrypoint:\n  a: b", Kind::Static),
        ("http:\n  routers: [\n", Kind::Dynamic),
        ("log:\n\tlevel: x", Kind::Static),
        ("", Kind::Unknown),
        ("banana: 1", Kind::Unknown),
        ("just text", Kind::Unknown),
    ] {
        assert_eq!(recognise(text), want, "{text}");
    }
}

#[test]
fn secrets_are_not_printed() {
    let message = error("http: {middlewares: {a: {basicAuth: {users: [\"sesame\"]}}}}");
    assert!(
        message.contains("dyn.yml:1:") && !message.contains("sesame"),
        "{message}"
    );
}

#[test]
fn a_static_file_of_traefik_is_taken() {
    let decoded = decode_static(
        "gantry.yaml",
        "
global: {checkNewVersion: true, sendAnonymousUsage: false}
LOG: {LEVEL: error}
entryPoints:
  web:
    address: 127.0.0.1:80
    http: {redirections: {entryPoint: {to: websecure}}}
  websecure:
    address: ':443'
    http: {tls: {}, maxHeaderBytes: 65536, encodedCharacters: {allowEncodedSlash: false}}
    transport: {respondingTimeouts: {readTimeout: 0, minBodyRate: 16KiB}, lifeCycle: {graceTimeOut: 3}}
    forwardedHeaders: {trustedIPs: '10.0.0.0/8,127.0.0.1'}
providers: {providersThrottleDuration: 50ms, file: {directory: dyn, watch: true}}
serversTransport: {maxIdleConnsPerHost: 256}
metrics: {prometheus: {entryPoint: web, buckets: [0.1, '1', 10]}}
accessLog: {format: json, fields: {headers: {defaultMode: keep, names: {Authorization: drop}}}}
ping: {}
api: {}
",
    );
    let shown: Vec<String> = decoded.diagnostics.iter().map(ToString::to_string).collect();
    assert!(shown.is_empty(), "{}", shown.join("\n"));
    let config = decoded.value;
    let secure = &config.entry_points["websecure"];
    assert!(secure.http.tls.is_some() && !secure.http.encoded_characters.allow_encoded_slash);
    let timeouts = &secure.transport.responding_timeouts;
    assert_eq!(
        (timeouts.read_timeout, timeouts.min_body_rate),
        (Some(Duration::ZERO), 16 << 10)
    );
    assert_eq!(secure.transport.life_cycle.grace_time_out, Duration::from_secs(3));
    assert_eq!(
        config.entry_points["web"].transport.responding_timeouts.read_timeout,
        None
    );
    assert_eq!(config.metrics.unwrap().prometheus.unwrap().buckets, [0.1, 1.0, 10.0]);
    assert_eq!(secure.forwarded_headers.trusted_ips, ["10.0.0.0/8", "127.0.0.1"]);
}

#[test]
fn every_key_is_documented_and_every_default_is_read_back() {
    fn walk(path: &str, keys: &'static Keys, count: &mut usize) {
        assert!(keys.about.trim().len() > 3, "{path} says nothing");
        for field in keys.fields {
            let path = format!("{path}.{}", field.key);
            assert!(field.doc.trim().len() > 3, "{path} says nothing");
            assert!(!(field.type_name)().is_empty(), "{path}");
            if let Some(default) = (field.default)() {
                assert!(!default.is_empty(), "{path}");
            }
            *count += 1;
            if let Some(inner) = (field.keys)() {
                walk(&path, inner, count);
            }
        }
        for (key, text) in keys.unsupported.iter().chain(keys.inert) {
            assert!(text.len() > 3, "{path}.{key} says nothing");
            let again = keys.fields.iter().any(|field| field.key.eq_ignore_ascii_case(key));
            assert!(!again, "{path}.{key} is built and refused");
        }
    }
    let mut count = 0;
    walk("static", Static::keys().unwrap(), &mut count);
    walk("dynamic", Dynamic::keys().unwrap(), &mut count);
    assert!(count > 200, "{count}");
}

#[test]
fn messages_of_broken_files() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/broken");
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(files.len() >= 20);
    let mut wrong = String::new();
    for path in files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let diagnostics = match recognise(&text) {
            Kind::Static => decode_static(name, &text).diagnostics,
            _ => decode_dynamic(name, &text).diagnostics,
        };
        assert!(diagnostics.iter().any(Diagnostic::is_error), "{name} has no error");
        assert!(
            diagnostics.iter().all(|d| d.help.is_some()),
            "{name}: a message without help: {diagnostics:?}"
        );
        let shown = diagnostics
            .iter()
            .fold(String::new(), |all, diagnostic| all + &format!("{diagnostic}\n\n"));
        let expect = path.with_extension("txt");
        if update {
            std::fs::write(&expect, &shown).unwrap();
        } else if std::fs::read_to_string(&expect).unwrap_or_default() != shown {
            write!(wrong, "--- {name}\n{shown}").unwrap();
        }
    }
    assert!(
        wrong.is_empty(),
        "messages changed; UPDATE_EXPECT=1 writes them anew\n{wrong}"
    );
}
