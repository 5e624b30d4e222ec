//! The command line: subcommands, exit codes, and messages that say where and how to mend.

use std::fs;
use std::process::Output;

use crate::harness::gateway::{Refused, run};
use crate::harness::*;

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What `gantry check` says of a file with this text, and whether it is content.
fn check(yaml: &str) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.yaml");
    fs::write(&path, yaml).unwrap();
    let output = run(&["check", path.to_str().unwrap()], "");
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    (output.status.success(), text(&output))
}

const GOOD: &str = "http:
  routers:
    r: {rule: \"Host(`a.test`)\", service: s, middlewares: [auth]}
  middlewares:
    auth: {basicAuth: {users: [\"admin:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/\"]}}
  services:
    s: {loadBalancer: {servers: [{url: \"http://127.0.0.1:1\"}]}}
";

#[test]
fn version_and_help() {
    only_gantry!();
    let output = run(&["version"], "");
    assert!(output.status.success());
    assert!(text(&output).contains(env!("CARGO_PKG_VERSION")), "{output:?}");
    for arguments in [&["--version"][..], &["--help"], &["check", "--help"]] {
        assert!(run(arguments, "").status.success(), "{arguments:?}");
    }
    let output = run(&["chek"], "");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn check_is_content_with_good_files() {
    only_gantry!();
    let (good, said) = check(GOOD);
    assert!(good, "{said}");
    let empty = tempfile::tempdir().unwrap();
    let folder = empty.path().display();
    let (good, said) = check(&format!(
        "entryPoints: {{web: {{address: \":8000\"}}}}\nproviders: {{file: {{directory: \"{folder}\"}}}}\n"
    ));
    assert!(good, "{said}");
    let (good, said) = check("");
    assert!(good, "{said}");
}

/// What is wrong, with words that must be in the message and the line that it must name.
const MISTAKES: &[(&str, &str, &[&str], usize)] = &[
    ("service: s,", "servise: s,", &["servise", "did you mean", "service"], 3),
    ("service: s,", "service: s, priority: high,", &["priority"], 3),
    ("service: s,", "service: gone,", &["gone"], 3),
    (
        "middlewares: [auth]}",
        "middlewares: [auht]}",
        &["auht", "did you mean", "auth"],
        3,
    ),
    ("Host(`a.test`)", "Hots(`a.test`)", &["Hots", "Host"], 3),
    ("Host(`a.test`)", "Host(`a.test`", &["Host"], 3),
    ("Host(`a.test`)", "PathRegexp(`(`)", &["PathRegexp"], 3),
    ("basicAuth", "basicAuht", &["basicAuht", "did you mean", "basicAuth"], 5),
    (
        "loadBalancer",
        "loadBalanser",
        &["loadBalanser", "did you mean", "loadBalancer"],
        7,
    ),
    ("http://127.0.0.1:1", "ftp://127.0.0.1:1", &["ftp"], 7),
    ("http:\n", "htpt:\n", &["htpt", "did you mean", "http"], 1),
    ("    r:", "    r: {rule: \"Path(`/`)\", service: s}\n    r:", &["r"], 4),
    ("  routers:", "\trouters:", &["tab"], 2),
];

#[test]
fn check_finds_mistakes_and_says_where() {
    only_gantry!();
    let mut wrong = Vec::new();
    for (from, to, words, line) in MISTAKES {
        assert!(GOOD.contains(from), "{from}");
        let (good, said) = check(&GOOD.replacen(from, to, 1));
        let place = format!("file.yaml:{line}:");
        let lower = said.to_lowercase();
        let missing: Vec<_> = words
            .iter()
            .filter(|word| !lower.contains(&word.to_lowercase()))
            .collect();
        if good || !missing.is_empty() || !said.contains(&place) {
            wrong.push(format!("{to}: good {good}, without {missing:?}, {place}:\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn check_warns_of_users_that_cannot_log_in() {
    only_gantry!();
    let (good, said) = check(&GOOD.replace("$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/", "plain"));
    assert!(
        good && said.contains("warning") && said.contains("admin") && said.contains("file.yaml:5:"),
        "{said}"
    );
}

#[test]
fn check_names_all_mistakes_of_a_file_at_once() {
    only_gantry!();
    let bad = GOOD
        .replace("service: s,", "servise: s,")
        .replace("basicAuth", "basicAuht")
        .replace("url:", "uri:");
    let (good, said) = check(&bad);
    assert!(
        !good && ["servise", "basicAuht", "uri"].iter().all(|word| said.contains(word)),
        "{said}"
    );
}

#[test]
fn check_shows_the_place_with_a_caret() {
    only_gantry!();
    let (_, said) = check(&GOOD.replace("service: s,", "servise: s,"));
    let lines: Vec<_> = said.lines().collect();
    let shown = lines
        .iter()
        .position(|line| line.contains("servise: s,"))
        .unwrap_or_else(|| panic!("{said}"));
    let caret = lines[shown + 1].find('^').unwrap_or_else(|| panic!("{said}"));
    assert_eq!(lines[shown].find("servise"), Some(caret), "{said}");
}

#[test]
fn check_speaks_json() {
    only_gantry!();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.yaml");
    fs::write(&path, GOOD.replace("service: s,", "servise: s,")).unwrap();
    let output = run(&["check", "--format", "json", path.to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(1));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert!(said.to_string().contains("servise"), "{said}");
}

#[test]
fn check_of_nothing_is_an_error_that_says_so() {
    only_gantry!();
    let output = run(&["check", "/nowhere/at-all.yaml"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("/nowhere/at-all.yaml"), "{output:?}");
}

#[test]
fn bombs_are_refused_quickly() {
    only_gantry!();
    let start = std::time::Instant::now();
    let mut bomb = String::from("x0: &x0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for i in 1..12 {
        let refs = vec![format!("*x{}", i - 1); 9].join(", ");
        bomb += &format!("x{i}: &x{i} [{refs}]\n");
    }
    assert!(!check(&bomb).0);
    assert!(!check(&format!("http: {}{}", "[".repeat(5000), "]".repeat(5000))).0);
    assert!(!check(&format!("http: {}", "{a: ".repeat(5000))).0);
    assert!(
        start.elapsed() < std::time::Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn hash_password_makes_what_basic_auth_takes() {
    only_gantry!();
    let output = run(&["hash-password", "--user", "eve"], "s3cret pass\n");
    let output = if output.status.success() {
        output
    } else {
        run(&["hash-password"], "s3cret pass\n")
    };
    assert!(output.status.success(), "{output:?}");
    let line = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let user = if line.starts_with("eve:") {
        line
    } else {
        format!("eve:{line}")
    };
    let backend = Backend::start();
    let yaml = gateway::all_to(&[&backend.url()])
        .replace("service: s}", "service: s, middlewares: [auth]}")
        .replace(
            "  services",
            &format!("  middlewares: {{auth: {{basicAuth: {{users: ['{user}']}}}}}}\n  services"),
        );
    let gateway = gateway().dynamic(&yaml).run();
    gateway.get("/").basic("eve", "s3cret pass").send().assert_status(200);
    gateway.get("/").basic("eve", "s3cret").send().assert_status(401);
}

#[test]
fn healthcheck_tells_by_its_exit_code() {
    let mut gateway = gateway().run();
    let file = gateway.dir().join("static.yaml");
    let arguments = ["healthcheck", &format!("--configFile={}", file.display())];
    let output = run(&arguments, "");
    assert!(output.status.success(), "{output:?}");
    gateway.signal("KILL");
    gateway.wait();
    assert_eq!(run(&arguments, "").status.code(), Some(1));
}

#[test]
fn a_missing_static_file_is_an_error() {
    only_gantry!();
    let output = run(&["--configFile=/nowhere/gantry.yaml"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("/nowhere/gantry.yaml"), "{output:?}");
}

fn refusal(setup: gateway::Setup) -> Refused {
    setup.try_run().expect_err("it started")
}

#[test]
fn a_bad_static_file_stops_the_start() {
    let refused = refusal(gateway().web("http: {noSuchKey: 1}"));
    assert_eq!(refused.code, Some(1));
    assert!(refused.log.contains("noSuchKey"), "{}", refused.log);
}

#[test]
fn a_bad_dynamic_file_stops_the_start() {
    only_gantry!();
    let refused = refusal(gateway().dynamic(&GOOD.replace("service: s,", "servise: s,")));
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.log.contains("servise") && refused.log.contains("did you mean"),
        "{}",
        refused.log
    );
}

#[test]
fn a_port_in_use_stops_the_start_and_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let setup = gateway();
    let file = setup.dir().join("taken.yaml");
    fs::write(&file, format!("entryPoints: {{mine: {{address: \"{address}\"}}}}\n")).unwrap();
    let output = run(&[&format!("--configFile={}", file.display())], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains(&address.port().to_string()), "{output:?}");
}

#[test]
fn keys_in_any_case_quoted_scalars_and_lists_in_one_string() {
    let backend = Backend::start();
    let yaml = format!(
        "HTTP:\n  Routers: {{r: {{RULE: \"PathPrefix(`/`)\", Service: s, entrypoints: \"web,websecure\", priority: \
         \"5\"}}}}\n  services: {{s: {{LoadBalancer: {{passhostheader: \"false\", servers: [{{URL: \"{}\"}}]}}}}}}\n",
        backend.url()
    );
    let gateway = gateway().dynamic(&yaml).run();
    gateway.get("/").send().assert_status(200);
    assert_eq!(
        backend.last().header("host"),
        Some(backend.address().to_string().as_str())
    );
}

#[test]
fn the_example_of_the_notes_is_accepted() {
    only_gantry!();
    let (good, said) = check(
        "http:
  routers:
    mri-segmentation:
      rule: \"Host(`mri.example.com`) && PathPrefix(`/segment`)\"
      service: mri-service
      middlewares: [auth, ratelimit]
  services:
    mri-service:
      loadBalancer:
        servers:
          - url: \"http://mri-model-1:8080\"
          - url: \"http://mri-model-2:8080\"
        healthCheck:
          path: /health
          interval: \"10s\"
  middlewares:
    auth:
      basicAuth:
        users:
          - \"admin:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/\"
    ratelimit:
      rateLimit:
        average: 100
        burst: 50
",
    );
    assert!(good, "{said}");
}
