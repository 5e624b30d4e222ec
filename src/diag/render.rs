//! How a diagnostic looks on a terminal: file, line, column, the line itself and a caret under the place.

use std::fmt;

use super::{Diagnostic, Location};

/// Columns of a source line that are shown; longer lines are cut around the place.
const WINDOW: usize = 140;
/// Columns kept before the place when a line is cut.
const BEFORE: usize = 60;
/// Columns that a tab takes.
const TAB: usize = 4;

/// Writes one diagnostic, without a line break at its end.
pub(super) fn diagnostic(diagnostic: &Diagnostic, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{}: {}", diagnostic.severity.as_str(), Safe(&diagnostic.message))?;
    let mut margin = 1;
    match &diagnostic.location {
        Some(location) => margin = snippet(location, diagnostic.secret, f)?,
        None if !diagnostic.path.is_empty() => write!(f, "\n  = at: {}", Safe(&diagnostic.path))?,
        None => {}
    }
    if let Some(help) = &diagnostic.help {
        write!(f, "\n{:margin$} = help: {}", "", Safe(help))?;
    }
    Ok(())
}

/// Writes the place and its line; returns the width of the line's number.
fn snippet(location: &Location, secret: bool, f: &mut fmt::Formatter<'_>) -> Result<usize, fmt::Error> {
    let source = &location.source;
    let (line, column) = source.line_column(location.span.start);
    write!(f, "\n --> {}:{line}:{column}", Safe(&source.name))?;
    if secret {
        return Ok(1);
    }
    let range = source.line_at(location.span.start);
    let text = &source.text[range.clone()];
    let start = location.span.start.clamp(range.start, range.end) - range.start;
    let end = location.span.end.clamp(range.start + start, range.end) - range.start;
    let marked = text[start..end].trim_end();
    let (shown, caret) = window(text, start, start + marked.len());
    let number = line.to_string();
    let margin = " ".repeat(number.len());
    write!(f, "\n{margin} |\n{number} | {shown}\n{margin} | {caret}")?;
    Ok(number.len())
}

/// The part of a line to show, and the line of carets below it. `start..end` are byte offsets in `text`.
fn window(text: &str, start: usize, end: usize) -> (String, String) {
    let lead: usize = text[..start].chars().map(width).sum();
    let whole: usize = text.chars().map(width).sum();
    let skip = if whole > WINDOW && lead > BEFORE {
        lead - BEFORE
    } else {
        0
    };
    let (mut shown, mut caret) = (String::new(), String::new());
    if skip > 0 {
        shown.push('…');
        caret.push(' ');
    }
    let (mut column, mut used, mut cut) = (0, 0, false);
    for (at, character) in text.char_indices() {
        let columns = width(character);
        column += columns;
        if column <= skip {
            continue;
        }
        used += columns;
        if used > WINDOW {
            cut = true;
            break;
        }
        match character {
            '\t' => shown.extend(std::iter::repeat_n(' ', TAB)),
            c if c.is_control() => shown.push('\u{fffd}'),
            c => shown.push(c),
        }
        let mark = if at < start {
            ' '
        } else if at < end {
            '^'
        } else {
            continue;
        };
        caret.extend(std::iter::repeat_n(mark, columns));
    }
    if cut {
        shown.push('…');
    }
    if !caret.contains('^') {
        caret.push('^');
    }
    (shown.trim_end().to_owned(), caret)
}

/// Columns a character takes on a terminal: near enough, without the Unicode tables.
const fn width(character: char) -> usize {
    match character as u32 {
        0x09 => TAB,
        0x0300..=0x036f | 0x200b..=0x200d | 0x20d0..=0x20ff | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// Text with its control characters (but line breaks) replaced, so that a file cannot drive the terminal.
struct Safe<'a>(&'a str);

impl fmt::Display for Safe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for character in self.0.chars() {
            f.write_char(if character.is_control() && character != '\n' {
                '\u{fffd}'
            } else {
                character
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::diag::{Diagnostic, Location, Source};

    fn show(text: &str, word: &str) -> String {
        let start = text.find(word).unwrap();
        let source = Source::new("f.yml", text);
        Diagnostic::error("p", "wrong")
            .help("mend it")
            .at(Location {
                source,
                span: start..start + word.len(),
            })
            .to_string()
    }

    #[test]
    fn a_caret_stands_under_the_place() {
        assert_eq!(
            show("a: 1\n  bad: 2\n", "bad"),
            "error: wrong\n --> f.yml:2:3\n  |\n2 |   bad: 2\n  |   ^^^\n  = help: mend it"
        );
    }

    #[test]
    fn tabs_and_wide_characters_keep_the_caret_in_place() {
        assert!(show("\tx: bad", "bad").ends_with("1 |     x: bad\n  |        ^^^\n  = help: mend it"));
        assert!(show("漢: bad", "bad").ends_with("1 | 漢: bad\n  |     ^^^\n  = help: mend it"));
    }

    #[test]
    fn an_empty_place_and_the_end_of_the_text_get_one_caret() {
        let source = Source::new("f.yml", "a:");
        let text = Diagnostic::error("", "wrong")
            .at(Location { source, span: 2..2 })
            .to_string();
        assert!(text.ends_with("1 | a:\n  |   ^"), "{text}");
        let source = Source::new("f.yml", "");
        let text = Diagnostic::error("", "wrong")
            .at(Location { source, span: 0..0 })
            .to_string();
        assert!(text.ends_with("1 | \n  | ^"), "{text}");
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let text = format!("{} bad {}", "x".repeat(1000), "y".repeat(1000));
        let shown = show(&text, "bad");
        assert!(shown.lines().all(|line| line.chars().count() < 160), "{shown}");
        let lines: Vec<&str> = shown.lines().collect();
        let at = lines[4].find('^').unwrap();
        assert!(
            lines[3].chars().skip(at).collect::<String>().starts_with("bad"),
            "{shown}"
        );
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let shown = show("a: \u{1b}[31mbad", "bad");
        assert!(!shown.contains('\u{1b}'), "{shown}");
        assert!(
            !Diagnostic::error("\u{1b}", "a\u{7}b")
                .to_string()
                .contains(['\u{1b}', '\u{7}'])
        );
    }

    #[test]
    fn without_a_place_the_path_is_named() {
        assert_eq!(
            Diagnostic::warning("http.routers.r", "hm").to_string(),
            "warning: hm\n  = at: http.routers.r"
        );
    }
}
