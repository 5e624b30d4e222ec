//! The rule language: what parses, what is refused and where, what matches.

use ::http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

fn rule(text: &str) -> Rule {
    parse(text).unwrap_or_else(|error| panic!("{text}: {error} at {:?}, help {:?}", error.span, error.help))
}

/// `METHOD host path?query [ip] [name: value]...`
fn asks(text: &str, request: &str) -> bool {
    let mut words = request.split(' ');
    let mut next = || words.next().unwrap_or_default();
    let (method, host, target) = (next(), next(), next());
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let mut client_ip = "192.0.2.1".parse().expect("valid");
    let mut headers = HeaderMap::new();
    for word in words {
        if let Ok(ip) = word.parse() {
            client_ip = ip;
        } else {
            let (name, value) = word.split_once('=').expect("name=value");
            let name: HeaderName = name.parse().expect("valid");
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("valid"));
        }
    }
    let host = normalise_host(host).expect("valid host");
    let path = routing_path(path);
    rule(text).matches(&Facts {
        host: &host,
        path: &path,
        method,
        headers: &headers,
        query,
        client_ip,
    })
}

#[test]
fn matchers_ask_what_traefik_asks() {
    let table: &[(&str, &[&str], &[&str])] = &[
        (
            "Host(`example.com`)",
            &["GET example.com /", "GET EXAMPLE.com:8080 /", "GET example.com. /"],
            &["GET a.example.com /", "GET  /"],
        ),
        ("Host(`Example.COM.`)", &["GET example.com /"], &[]),
        (
            "Host(`*.example.com`)",
            &["GET a.example.com /"],
            &["GET example.com /", "GET a.b.example.com /"],
        ),
        ("Host(`*`)", &["GET example.com /", "GET  /"], &[]),
        ("!Host(`*`)", &[], &["GET example.com /", "GET  /"]),
        (
            "HostRegexp(`^.+\\.example\\.com$`)",
            &["GET A.Example.com:80 /"],
            &["GET example.com /"],
        ),
        ("HostRegexp(`ampl`)", &["GET example.com /"], &["GET a /"]),
        ("HostRegexp(`Example`)", &[], &["GET Example.com /"]),
        (
            "Path(`/a`)",
            &["GET h /a", "GET h /a?b", "GET h /%61"],
            &["GET h /a/", "GET h /A", "GET h /"],
        ),
        ("Path(`/a b`)", &["GET h /a%20b"], &["GET h /a+b"]),
        ("Path(`/a%2Fb`)", &["GET h /a%2Fb", "GET h /a%2fb"], &["GET h /a/b"]),
        (
            "PathPrefix(`/api`)",
            &["GET h /api", "GET h /api/x", "GET h /apiary"],
            &["GET h /ap", "GET h /v1/api"],
        ),
        (
            "PathRegexp(`\\.png$`)",
            &["GET h /a.png", "GET h /a.png?x"],
            &["GET h /a.png/x"],
        ),
        ("PathRegexp(`(?i)^/API`)", &["GET h /api"], &[]),
        ("Method(`GET`)", &["GET h /"], &["POST h /", "get h /"]),
        ("Method(`post`)", &["POST h /"], &["GET h /"]),
        (
            "Header(`X-A`, `1`)",
            &["GET h / x-a=1", "GET h / x-a=0 x-a=1"],
            &["GET h /", "GET h / x-a=11", "GET h / x-a=1,2"],
        ),
        ("Header(`Host`, `h`)", &[], &["GET h / host=h"]),
        ("!Header(`a b`, `h`)", &["GET h /"], &[]),
        (
            "HeaderRegexp(`x-a`, `^v[0-9]`)",
            &["GET h / x-a=u x-a=v1"],
            &["GET h / x-a=av1", "GET h /"],
        ),
        (
            "Query(`k`, `v`)",
            &["GET h /?k=v", "GET h /?k=u&k=v", "GET h /?a;k=v", "GET h /?%6b=%76"],
            &["GET h /", "GET h /?k", "GET h /?k=vv"],
        ),
        (
            "Query(`k`)",
            &["GET h /?k", "GET h /?k=", "GET h /?k=a&k="],
            &["GET h /?k=v", "GET h /?kk", "GET h /?"],
        ),
        (
            "QueryRegexp(`k`, `^\\d+$`)",
            &["GET h /?k=12", "GET h /?k=%31"],
            &["GET h /?k=x", "GET h /?k"],
        ),
        ("QueryRegexp(`k`)", &["GET h /?k"], &["GET h /?k=v"]),
        (
            "ClientIP(`10.0.0.0/8`)",
            &["GET h / 10.1.2.3", "GET h / ::ffff:10.1.2.3"],
            &["GET h / 11.0.0.1"],
        ),
        ("ClientIP(`::1`)", &["GET h / ::1"], &["GET h / ::2"]),
        (
            "ClientIP(`::ffff:10.0.0.1`)",
            &["GET h / 10.0.0.1"],
            &["GET h / 10.0.0.2"],
        ),
    ];
    for (text, yes, no) in table {
        for request in *yes {
            assert!(asks(text, request), "{text} should match {request}");
        }
        for request in *no {
            assert!(!asks(text, request), "{text} should not match {request}");
        }
    }
}

#[test]
fn operators_bind_as_in_go() {
    // Matchers that are true (T) and false (F) for the request.
    let table = [
        ("T", true),
        ("F", false),
        ("!F", true),
        ("!!T", true),
        ("! ! !T", false),
        ("T || F && F", true),
        ("(T || F) && F", false),
        ("F && F || T", true),
        ("!F && T", true),
        ("!(F && T)", true),
        ("!(F || T)", false),
        ("!(!(F) || !T) || F", false),
        ("!(T && !(F || T))", true),
        ("((((T))))", true),
        ("T&&T&&T&&F", false),
        ("F||F||F||T", true),
        ("\n T\n && \t T\r\n", true),
    ];
    for (shape, expected) in table {
        let text = shape.replace('T', "Path(`/`)").replace('F', "Path(`/x`)");
        assert_eq!(asks(&text, "GET h /"), expected, "{shape}");
    }
}

#[test]
fn names_are_known_in_four_spellings() {
    for name in ["PathPrefix", "pathprefix", "PATHPREFIX", "Pathprefix"] {
        assert!(parse(&format!("{name}(`/`)")).is_ok(), "{name}");
    }
    for name in ["ClientIP", "clientip", "CLIENTIP", "Clientip"] {
        assert!(parse(&format!("{name}(`::1`)")).is_ok(), "{name}");
    }
    for name in ["pathPrefix", "Path_Prefix", "PATHprefix", "ClientIp", "hOST"] {
        assert!(parse(&format!("{name}(`/`)")).is_err(), "{name}");
    }
}

/// A rule, what the error covers, a part of its message, a part of its help.
const REFUSALS: &[(&str, &str, &str, &str)] = &[
    ("", "", "empty", "Host("),
    ("  ", "  ", "empty", "Host("),
    ("Hots(`a`)", "Hots", "unknown matcher `Hots`", "did you mean `Host`?"),
    (
        "PathPrefx(`/`)",
        "PathPrefx",
        "unknown matcher",
        "did you mean `PathPrefix`?",
    ),
    (
        "pathPrefix(`/`)",
        "pathPrefix",
        "unknown matcher",
        "case-sensitive: write `PathPrefix`",
    ),
    ("Foo(`/`)", "Foo", "unknown matcher", "matchers are Host, HostRegexp"),
    ("Host(`a`) && Foo", "Foo", "unknown matcher", "matchers are"),
    ("Host", "", "expected `(` after `Host`", "Host(`...`)"),
    ("Host()", "Host()", "`Host` takes 1 argument, found 0", "Host(`...`)"),
    (
        "Host(`a`, `b`)",
        "Host(`a`, `b`)",
        "takes 1 argument, found 2",
        "Host(`a`) || Host(`b`)",
    ),
    (
        "Header(`a`)",
        "Header(`a`)",
        "takes 2 arguments, found 1",
        "Header(`name`, `value`)",
    ),
    (
        "Query(`a`,`b`,`c`)",
        "Query(`a`,`b`,`c`)",
        "takes 1 or 2 arguments, found 3",
        "Query(`name`",
    ),
    ("Host(``)", "``", "empty", ""),
    ("Header(`a`, \"\")", "\"\"", "an argument of `Header` is empty", ""),
    ("Path(`api`)", "`api`", "does not begin with `/`", "Path(`/api`)"),
    (
        "PathPrefix(\"api\")",
        "\"api\"",
        "does not begin with `/`",
        "PathPrefix(`/api`)",
    ),
    (
        "PathRegexp(`/a[`)",
        "[",
        "bad regular expression: missing closing ]",
        "",
    ),
    ("PathRegexp(`/a**`)", "**", "invalid nested repetition operator", ""),
    ("HostRegexp(\"a(\")", "(", "missing closing )", ""),
    ("HostRegexp(\"\\x61(\")", "\"\\x61(\"", "missing closing )", ""),
    ("HeaderRegexp(`a`, `(?=b)`)", "(?=b)", "lookaround", ""),
    ("QueryRegexp(`a`, `\\`)", "\\", "trailing backslash", ""),
    ("HostRegexp(`é`)", "`é`", "ASCII", ""),
    ("Host(`é.com`)", "`é.com`", "ASCII", ""),
    ("Host(`a.*.com`)", "`a.*.com`", "first label", ""),
    ("ClientIP(`10.0.0.0/33`)", "`10.0.0.0/33`", "prefix length", ""),
    ("ClientIP(`localhost`)", "`localhost`", "not an IP address", ""),
    ("Host(`a`) Host(`b`)", "Host", "expected `&&` or `||`, found `Host`", ""),
    ("Host(`a`) and Host(`b`)", "and", "expected `&&` or `||`", "write `&&`"),
    ("Host(`a`) OR Host(`b`)", "OR", "expected `&&` or `||`", "write `||`"),
    ("Host(`a`), Host(`b`)", ",", "expected `&&` or `||`", "join"),
    ("Host(`a`) & Host(`b`)", "&", "unexpected character `&`", "&&"),
    ("Host('a')", "'", "unexpected character", "backticks"),
    ("Host(a)", "a", "expected a string, found `a`", "backticks"),
    ("Host(`a`", "", "expected `,` or `)`, found the end of the rule", ""),
    ("Host(,)", ",", "expected a string", ""),
    ("Host(`a` `b`)", "`b`", "expected `,` or `)`", ""),
    ("Host(`a)", "`a)", "not closed", "backtick"),
    ("Host(\"\\d\")", "\\d", "unknown escape", "backticks"),
    ("(Host(`a`)", "", "expected `&&`, `||` or `)`", ""),
    ("Host(`a`))", ")", "unexpected `)`", "there is no `(`"),
    ("()", ")", "expected a matcher, found `)`", ""),
    ("Host(`a`) &&", "", "expected a matcher, found the end of the rule", ""),
    ("&& Host(`a`)", "&&", "expected a matcher", ""),
    ("!", "", "expected a matcher", ""),
    ("`a`", "`a`", "expected a matcher, found a string", ""),
    (
        "HostHeader(`a`, `b`)",
        "HostHeader",
        "Traefik v2",
        "Host(`a`) || Host(`b`)",
    ),
    ("Headers(`a`, `b`)", "Headers", "Traefik v2", "Header(`a`, `b`)"),
    (
        "HeadersRegexp(`a`, `b.*`)",
        "HeadersRegexp",
        "Traefik v2",
        "HeaderRegexp(`a`, `b.*`)",
    ),
    ("headers(`a`, `b`)", "headers", "Traefik v2", "Header(`a`, `b`)"),
    ("HostSNI(`a`)", "HostSNI", "TCP", "Host("),
    (
        "Path(`/a/{id:[0-9]{2,3}}/b.c`)",
        "`/a/{id:[0-9]{2,3}}/b.c`",
        "v2",
        "PathRegexp(`^/a/[0-9]{2,3}/b\\.c$`)",
    ),
    (
        "PathPrefix(`/{a:x|y}/{b}`)",
        "`/{a:x|y}/{b}`",
        "v2",
        "PathRegexp(`^/(?:x|y)/[^/]+`)",
    ),
    (
        "HostRegexp(`{sub:[a-z]+}.x.com`)",
        "`{sub:[a-z]+}.x.com`",
        "v2",
        "HostRegexp(`^[a-z]+\\.x\\.com$`)",
    ),
    (
        "Host(`{sub:[a-z]+}.x.com`)",
        "`{sub:[a-z]+}.x.com`",
        "v2",
        "HostRegexp(",
    ),
    ("Path(`/{id:[}`)", "`/{id:[}`", "v2", "PathRegexp(`regexp`)"),
];

#[test]
fn errors_say_what_and_where() {
    for (text, covered, message, help) in REFUSALS {
        let error = parse(text).expect_err(text);
        assert!(error.message.contains(message), "{text}: {}", error.message);
        assert_eq!(text.get(error.span.clone()), Some(*covered), "{text}: {:?}", error.span);
        let given = error.help.clone().unwrap_or_default();
        assert!(given.contains(help), "{text}: {given}");
        assert_eq!(given.is_empty(), help.is_empty(), "{text}: {given}");
    }
}

#[test]
fn nesting_and_length_are_bounded() {
    let nested = |depth: usize| format!("{}Host(`a`){}", "(".repeat(depth), ")".repeat(depth));
    assert!(parse(&nested(MAX_NESTING)).is_ok());
    let error = parse(&nested(MAX_NESTING + 1)).expect_err("too deep");
    assert_eq!(
        (error.span, error.message.contains("nested")),
        (MAX_NESTING..MAX_NESTING + 1, true)
    );
    assert!(parse(&nested(30_000)).is_err());
    assert!(parse(&"(".repeat(60_000)).is_err());
    assert!(parse(&"!".repeat(60_000)).is_err());
    assert!(parse(&format!("{}Host(`a`)", "!".repeat(60_000))).is_ok());
    assert!(parse(&"!(".repeat(30_000)).is_err());
    assert!(
        parse(&" ".repeat(MAX_LENGTH + 1))
            .expect_err("too long")
            .message
            .contains("longer")
    );
    let wide = vec!["Host(`a`)"; 5_000].join("||");
    assert!(parse(&wide).is_ok());
}

#[test]
fn never_matching_arguments_are_warned_of() {
    let table = [
        ("Header(`host`, `a`)", "`host`", "Host matcher"),
        ("Header(`a b`, `a`)", "`a b`", ""),
        ("Host(`a.com:8080`)", "`a.com:8080`", "without scheme, port"),
        ("Host(`https://a.com`)", "`https://a.com`", "host name alone"),
        ("HostRegexp(`^Api\\.`)", "`^Api\\.`", "`^api\\.`"),
        ("Path(`/a?b=c`)", "`/a?b=c`", "Query("),
        ("Path(`/a/{id}`)", "`/a/{id}`", "PathRegexp(`^/a/[^/]+$`)"),
        ("PathPrefix(`/a%20b`)", "`/a%20b`", "`/a b`"),
        ("Path(`/a%2fb`)", "`/a%2fb`", "`/a%2Fb`"),
        ("Query(`a=b`)", "`a=b`", "Query(`a`, `b`)"),
    ];
    for (text, covered, help) in table {
        let rule = rule(text);
        let [warning] = rule.warnings() else {
            panic!("{text}: {:?}", rule.warnings())
        };
        assert_eq!(&text[warning.span.clone()], covered);
        let given = warning.help.clone().unwrap_or_default();
        assert!(given.contains(help), "{text}: {given}");
    }
    for text in [
        "Host(`a.com`)",
        "Host(`[::1]`)",
        "Host(`::1`)",
        "HostRegexp(`^[a-zA-Z0-9]+\\D\\.com$`)",
        "HostRegexp(`(?i)^Api`)",
        "HostRegexp(`\\p{Greek}`)",
        "Path(`/a%2Fb`)",
        "Query(`a`, `b=c`)",
    ] {
        assert_eq!(rule(text).warnings(), [], "{text}");
    }
}

#[test]
fn hosts_are_those_outside_of_negations() {
    let table: &[(&str, &[&str])] = &[
        ("Host(`A.com`)", &["a.com"]),
        ("Host(`b`) || Host(`a`) && Path(`/`) || Host(`b`)", &["b", "a"]),
        ("!Host(`a`)", &[]),
        ("!(Path(`/`) || !Host(`a`))", &["a"]),
        ("!(Host(`a`) && !Host(`b`))", &["b"]),
        ("Host(`*`) && Path(`/`)", &[]),
        ("Host(`*.a.com`)", &["*.a.com"]),
        ("HostRegexp(`a`)", &[]),
    ];
    for (text, hosts) in table {
        assert_eq!(rule(text).hosts(), *hosts, "{text}");
        assert_eq!(rule(text).has_host(), !hosts.is_empty(), "{text}");
    }
}

#[test]
fn priority_counts_bytes() {
    assert_eq!(default_priority("Host(`a`) && Path(`/`)"), 22);
    assert_eq!(default_priority(" Path(`/é`) "), 13);
    assert_eq!(default_priority(""), 0);
}

#[test]
fn needs_are_necessary() {
    let exact = |path: &str| PathNeed::Exact(path.to_owned());
    let prefix = |path: &str| PathNeed::Prefix(path.to_owned());
    let host = |name: &str| HostPattern::parse(name).expect("valid");
    type Wanted = (Option<Vec<HostPattern>>, Option<Vec<PathNeed>>);
    let table: Vec<(&str, Wanted)> = vec![
        ("Host(`a`)", (Some(vec![host("a")]), None)),
        (
            "Host(`a`) && PathPrefix(`/x`)",
            (Some(vec![host("a")]), Some(vec![prefix("/x")])),
        ),
        (
            "PathPrefix(`/x`) && PathPrefix(`/x/y`)",
            (None, Some(vec![prefix("/x/y")])),
        ),
        ("Host(`*.a`) && Host(`b.a`)", (Some(vec![host("b.a")]), None)),
        (
            "Host(`b`) || Host(`a`) || Host(`b`)",
            (Some(vec![host("a"), host("b")]), None),
        ),
        ("Host(`a`) || Path(`/`)", (None, None)),
        (
            "Host(`a`) && Path(`/`) || Host(`b`) && Path(`/`)",
            (Some(vec![host("a"), host("b")]), Some(vec![exact("/")])),
        ),
        ("!Host(`a`)", (None, None)),
        ("!(!Host(`a`) || Path(`/`))", (Some(vec![host("a")]), None)),
        ("Host(`*`)", (None, None)),
        ("Host(`*`) || Host(`a`)", (None, None)),
        ("(Host(`a`) || Host(`b`)) && Host(`c`)", (Some(vec![host("c")]), None)),
        ("HostRegexp(`a`) && PathRegexp(`b`)", (None, None)),
    ];
    for (text, (hosts, paths)) in table {
        assert_eq!(rule(text).needs(), Needs { hosts, paths }, "{text}");
    }
    let many: Vec<String> = (0..=needs::MAX_PATHS).map(|n| format!("Path(`/{n}`)")).collect();
    assert_eq!(rule(&many.join(" || ")).needs(), Needs::default());
}

#[test]
fn normalised_rules_are_equal_when_they_differ_in_spelling_only() {
    let table = [
        ("Host(`A.com`)&&Path(\"/\")", "( Path(`/`) ) && host(`a.com.`)"),
        ("Host(`a`) || Host(`b`) || Host(`a`)", "Host(`b`) || Host(`a`)"),
        ("!(Host(`a`) || Path(`/`))", "!Path(`/`) && !Host(`a`)"),
        ("Host(`a`) && (Path(`/`) || Path(`/`))", "Path(`/`) && Host(`a`)"),
        (
            "Host(`a`) && (Path(`/`) && Path(`/b`) || Path(`/b`) && Path(`/`))",
            "Path(`/`) && Path(`/b`) && Host(`a`)",
        ),
        ("Method(`get`)", "METHOD(`GET`)"),
        ("ClientIP(`::ffff:10.0.0.1`)", "ClientIP(`10.0.0.1/32`)"),
        ("QueryRegexp(`k`)", "Query(`k`)"),
        ("Header(`X-A`, `V`)", "Header(`x-a`, `V`)"),
    ];
    for (one, other) in table {
        assert_eq!(rule(one).normalised(), rule(other).normalised());
        assert_eq!(rule(&rule(one).normalised()).normalised(), rule(one).normalised());
    }
    for (one, other) in [
        ("Header(`a`, `V`)", "Header(`a`, `v`)"),
        ("Path(`/A`)", "Path(`/a`)"),
        ("Path(`/`)", "!Path(`/`)"),
    ] {
        assert_ne!(rule(one).normalised(), rule(other).normalised());
    }
    let odd = rule("Path(\"/`\\\"\\\\\") && Header(`a`, \"x`\\r\\ny\")");
    assert_eq!(rule(&odd.normalised()).normalised(), odd.normalised());
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn no_likely_text_panics(text in "(Host|Path|Query|!|&&|\\|\\||\\(|\\)|,|`[a/*{}:]{0,4}`|\"[a\\\\/é]{0,3}\"| |[a&|]){0,16}") {
        if let Err(error) = parse(&text) {
            prop_assert!(text.get(error.span.clone()).is_some(), "{text}: {:?}", error.span);
        }
    }
}
