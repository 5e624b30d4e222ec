//! What a pattern means in Go, what Go refuses, and where.

use proptest::prelude::*;

use crate::units::regex::GoRegex;

/// A pattern, texts that match, texts that do not.
type Case = (&'static str, &'static [&'static str], &'static [&'static str]);

const MEANINGS: &[Case] = &[
    ("", &["", "a"], &[]),
    ("^/api", &["/api/x"], &["/v1/api"]),
    (r"^\Qa.b\E$", &["a.b"], &["axb"]),
    (r"^\Qa.b", &["a.bc"], &["axbc"]),
    (r"^\Qab\E+$", &["abbb"], &["abab"]),
    (r"a\Q\E*", &["", "b"], &[]),
    (r"^\Q\E$", &[""], &["a"]),
    (r"\101", &["A"], &["101"]),
    (r"\0", &["\0"], &["0"]),
    (r"\0101", &["\u{8}1"], &["A"]),
    (r"\x41\x{42}", &["AB"], &["x41"]),
    (r"\a\f\n\r\t\v", &["\u{7}\u{c}\n\r\t\u{b}"], &["afnrtv"]),
    (r"^\_\-\/\#\ \`\{$", &["_-/# `{"], &[]),
    ("{id}", &["{id}"], &["id"]),
    ("^x{,3}$", &["x{,3}"], &["xx"]),
    ("^x{a}{2$", &["x{a}{2"], &[]),
    ("^x{01}$", &["x{01}"], &["x"]),
    ("^x{2}$", &["xx"], &["x", "xxx"]),
    ("^x{2,}$", &["xx", "xxxx"], &["x"]),
    ("^x{2,3}?$", &["xx", "xxx"], &["x", "xxxx"]),
    ("x{0}", &["", "y"], &[]),
    ("^}$", &["}"], &[]),
    ("^]$", &["]"], &[]),
    (r"^\w+$", &["aZ_09"], &["é", "ſ"]),
    (r"^\W+$", &["é-"], &["a"]),
    (r"^\d+$", &["09"], &["٣"]),
    (r"^\D+$", &["٣"], &["3"]),
    (r"^\s+$", &["\t\n\u{c}\r "], &["\u{a0}", "\u{b}"]),
    (r"^\S+$", &["\u{a0}"], &[" "]),
    (r"\bfoo\b", &["a foo b", "éfoo"], &["afoo", "foo_"]),
    (r"^\B", &["é", ""], &["a"]),
    ("^[[:word:]]+$", &["a_1"], &["é"]),
    ("^[[:^alpha:]]$", &["1"], &["a"]),
    ("^[[a]+$", &["[a["], &["b"]),
    ("^[[:a]+$", &["[:a"], &["b"]),
    ("^[a&&b]+$", &["a&b"], &[]),
    ("^[+--]+$", &["+,-"], &["a"]),
    ("^[~~a]+$", &["~a"], &["b"]),
    ("^[]a]+$", &["]a"], &["b"]),
    ("^[^]a]+$", &["b"], &["]", "a"]),
    ("^[a-]+$", &["a-"], &["b"]),
    ("^[-a]+$", &["a-"], &["b"]),
    (r"^[\d\-x]+$", &["1-x"], &["y"]),
    (r"^[^\d]+$", &["x"], &["1"]),
    (r"^[^\D]+$", &["1"], &["x"]),
    (r"^[\W1]+$", &["é1"], &["a"]),
    (r"^[\x41-\x43]+$", &["ABC"], &["D"]),
    ("^[^/]+$", &["aé", "\n"], &["/"]),
    ("^[é-ü]+$", &["éêü"], &["e"]),
    (r"^\pL\p{Greek}\PL$", &["aα1"], &["1α1"]),
    (r"^\p{^L}$", &["1"], &["a"]),
    (r"^\P{^L}$", &["a"], &["1"]),
    (r"^[\pL\d]+$", &["é1"], &["-"]),
    ("(?i)abc", &["ABC"], &[]),
    ("(?i:a)b", &["Ab"], &["AB"]),
    ("(?i)a(?-i)b", &["Ab"], &["AB"]),
    ("(?s).", &["\n"], &[]),
    (".", &["a"], &["\n"]),
    ("(?m)^b$", &["a\nb\nc"], &["ab"]),
    ("^b$", &["b"], &["a\nb\nc", "b\n"]),
    ("(?)a", &["a"], &["b"]),
    ("^(a(?i)b|c)d$", &["aBd", "Cd"], &["aBD", "Abd"]),
    (r"\Aa\z", &["a"], &["ab"]),
    ("a|b|", &["", "x"], &[]),
    ("^(?:)$", &[""], &["a"]),
    ("^(|a)*$", &["", "aa"], &["b"]),
    ("^*", &["x"], &[]),
    ("^é+$", &["éé"], &["e"]),
    ("(?:a{10}){100}", &[], &["a"]),
    ("(a{10}){100}|(b{1000})", &[], &["a"]),
];

#[test]
fn means_what_it_means_in_go() {
    for (pattern, yes, no) in MEANINGS {
        let regex = GoRegex::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        for text in *yes {
            assert!(regex.is_match(text), "{pattern} should match {text:?}");
        }
        for text in *no {
            assert!(!regex.is_match(text), "{pattern} should not match {text:?}");
        }
    }
}

#[test]
fn lazy_and_ungreedy() {
    let find = |pattern: &str, text: &'static str| GoRegex::new(pattern).expect(pattern).find(text);
    assert_eq!(find("a+?", "aaa"), Some("a"));
    assert_eq!(find("(?U)a+", "aaa"), Some("a"));
    assert_eq!(find("(?U)a+?", "aaa"), Some("aaa"));
    assert_eq!(find("(?U:a+)a+", "aaa"), Some("aaa"));
    assert_eq!(find("a|ab", "ab"), Some("a"));
}

/// A pattern, where the error is, a part of its message.
const REFUSALS: &[(&str, usize, &str)] = &[
    ("a**", 1, "invalid nested repetition operator `**`"),
    ("a*+", 1, "invalid nested repetition operator `*+`"),
    ("a??*", 1, "invalid nested repetition operator `??*`"),
    ("a{2}{3}", 1, "invalid nested repetition operator `{2}{3}`"),
    ("a{1001}", 1, "invalid repeat count `{1001}`"),
    ("a{2,1}", 1, "invalid repeat count `{2,1}`"),
    ("a{1,1001}", 1, "invalid repeat count"),
    ("a{1001,}", 1, "invalid repeat count"),
    ("a{99999999999}", 1, "invalid repeat count"),
    ("(a{100}){11}", 8, "invalid repeat count"),
    ("((a{2}b{50}){10}){3}", 17, "invalid repeat count"),
    ("*", 0, "missing argument to repetition operator `*`"),
    ("a|*", 2, "missing argument"),
    ("(+)", 1, "missing argument"),
    ("(?i)*", 4, "missing argument"),
    ("{1}", 0, "missing argument"),
    ("(a", 0, "missing closing )"),
    ("a)", 1, "unexpected )"),
    ("(?i", 0, "missing closing )"),
    ("x[a", 1, "missing closing ]"),
    ("[a-", 0, "missing closing ]"),
    ("[]", 0, "missing closing ]"),
    ("[z-a]", 1, "invalid character class range `z-a`"),
    ("[a--z]", 1, "invalid character class range `a--`"),
    (r"[a-\d]", 3, r"invalid escape sequence `\d`"),
    ("[[:foo:]]", 1, "invalid character class range `[:foo:]`"),
    (r"\p{Nope}", 0, r"invalid character class range `\p{Nope}`"),
    (r"\p{L", 0, "invalid character class range"),
    (r"\p{}", 0, "invalid character class range"),
    (r"\p", 0, "invalid character class range"),
    (r"\", 0, "trailing backslash"),
    (r"ab\", 2, "trailing backslash"),
    (r"[a\", 2, "trailing backslash"),
    (r"\C", 0, r"invalid escape sequence `\C`"),
    (r"\E", 0, "invalid escape sequence"),
    (r"\Z", 0, "invalid escape sequence"),
    (r"\é", 0, "invalid escape sequence"),
    (r"(a)\1", 3, "backreferences are not supported"),
    (r"\8", 0, "backreferences"),
    (r"\xg1", 0, "invalid escape sequence"),
    (r"\x4", 0, "invalid escape sequence"),
    (r"\x{}", 0, "invalid escape sequence"),
    (r"\x{110000}", 0, "invalid escape sequence"),
    (r"\x{4", 0, "invalid escape sequence"),
    (r"[\b]", 1, "invalid escape sequence"),
    ("(?=a)", 0, "lookaround is not supported"),
    ("a(?!b)", 1, "lookaround"),
    ("(?<=a)b", 0, "lookaround"),
    ("(?<!a)b", 0, "lookaround"),
    ("(?x)a", 0, "invalid or unsupported Perl syntax `(?x`"),
    ("(?i-)a", 0, "invalid or unsupported Perl syntax"),
    ("(?P<n>a)(?P<n>b)", 8, "duplicate capture group name `n`"),
    ("(?P<n-a>a)", 0, "invalid named capture `(?P<n-a>`"),
    ("(?P<>a)", 0, "invalid named capture"),
    ("(?P<n", 0, "invalid named capture"),
    ("(?P=n)", 0, "invalid or unsupported Perl syntax"),
    ("(?<", 0, "invalid or unsupported Perl syntax"),
];

#[test]
fn refuses_what_go_refuses_and_says_where() {
    for (pattern, position, message) in REFUSALS {
        let error = GoRegex::new(pattern).expect_err(pattern);
        assert!(error.message.contains(message), "{pattern}: {}", error.message);
        assert_eq!(error.position, *position, "{pattern}: {}", error.message);
    }
}

proptest! {
    #[test]
    fn a_quoted_text_matches_itself_only(text in "[^\\\\]{0,20}", other in any::<String>()) {
        let regex = GoRegex::new(&format!(r"^\Q{text}\E$")).expect("quoted text compiles");
        prop_assert!(regex.is_match(&text));
        prop_assert_eq!(regex.is_match(&other), text == other);
    }

    /// What the translator accepts, the crate accepts too, unless it is too large.
    #[test]
    fn the_crate_takes_every_translation(pattern in "[-a-c0-3(){}\\[\\]^$.*+?|\\\\,:<>PQEdwpLxiU&é]{0,24}") {
        if let Err(error) = GoRegex::new(&pattern)
            && super::translate(&pattern).is_ok()
        {
            prop_assert!(error.message.contains("too large"), "{pattern}: {error}");
        }
    }
}
