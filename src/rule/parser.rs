//! Tokens → expression. Recursive descent; the depth is bounded by [`MAX_NESTING`].

use std::ops::Range;

use super::matcher::Argument;
use super::token::{Spanned, Token, tokens};
use super::{Expression, MAX_LENGTH, MAX_NESTING, Matcher, RuleError, RuleWarning, matcher};

/// What parsing gives.
#[derive(Debug)]
pub struct Parsed {
    /// The expression, negations at the leaves.
    pub root: Expression,
    /// What looks like a mistake.
    pub warnings: Vec<RuleWarning>,
}

/// Parses the text of a rule.
///
/// # Errors
/// The first mistake.
pub fn parse(text: &str) -> Result<Parsed, RuleError> {
    if text.len() > MAX_LENGTH {
        return Err(RuleError {
            message: format!("the rule is longer than {MAX_LENGTH} bytes"),
            span: 0..0,
            help: Some("split it over several routers".to_owned()),
        });
    }
    let mut parser = Parser {
        tokens: tokens(text)?,
        position: 0,
        end: text.len(),
        depth: 0,
        warnings: Vec::new(),
    };
    if parser.tokens.is_empty() {
        return Err(RuleError {
            message: "the rule is empty".to_owned(),
            span: 0..text.len(),
            help: Some("write a matcher, such as Host(`example.com`) or PathPrefix(`/`)".to_owned()),
        });
    }
    let root = parser.either(false)?;
    match parser.peek() {
        None => Ok(Parsed {
            root,
            warnings: parser.warnings,
        }),
        Some(Token::Close) => Err(parser.error_here("unexpected `)`", Some("there is no `(` for it"))),
        Some(other) => {
            let message = format!("expected `&&` or `||`, found {}", other.describe());
            let help = match other {
                Token::Name(name) if name.eq_ignore_ascii_case("and") => Some("write `&&`"),
                Token::Name(name) if name.eq_ignore_ascii_case("or") => Some("write `||`"),
                Token::Comma => Some("join matchers by `&&` or `||`"),
                _ => None,
            };
            Err(parser.error_here(message, help))
        }
    }
}

struct Parser {
    tokens: Vec<Spanned>,
    position: usize,
    end: usize,
    depth: usize,
    warnings: Vec<RuleWarning>,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.position).map(|(token, _)| token)
    }

    /// Where the next token stands; the end of the text after the last one.
    fn here(&self) -> Range<usize> {
        self.tokens
            .get(self.position)
            .map_or(self.end..self.end, |(_, span)| span.clone())
    }

    fn eat(&mut self, wanted: &Token) -> bool {
        let found = self.peek() == Some(wanted);
        self.position += usize::from(found);
        found
    }

    fn error_here(&self, message: impl Into<String>, help: Option<&str>) -> RuleError {
        RuleError {
            message: message.into(),
            span: self.here(),
            help: help.map(str::to_owned),
        }
    }

    fn expected(&self, wanted: &str) -> RuleError {
        let found = self
            .peek()
            .map_or_else(|| "the end of the rule".to_owned(), Token::describe);
        self.error_here(format!("expected {wanted}, found {found}"), None)
    }

    /// `a || b`; under a negation it becomes `!a && !b`.
    fn either(&mut self, negated: bool) -> Result<Expression, RuleError> {
        let mut parts = vec![self.both(negated)?];
        while self.eat(&Token::Or) {
            parts.push(self.both(negated)?);
        }
        Ok(join(parts, negated))
    }

    /// `a && b`; under a negation it becomes `!a || !b`.
    fn both(&mut self, negated: bool) -> Result<Expression, RuleError> {
        let mut parts = vec![self.unary(negated)?];
        while self.eat(&Token::And) {
            parts.push(self.unary(negated)?);
        }
        Ok(join(parts, !negated))
    }

    fn unary(&mut self, mut negated: bool) -> Result<Expression, RuleError> {
        while self.eat(&Token::Not) {
            negated = !negated;
        }
        match self.peek() {
            Some(Token::Open) => self.group(negated),
            Some(Token::Name(name)) => {
                let name = name.clone();
                self.call(&name, negated)
            }
            _ => Err(self.expected("a matcher")),
        }
    }

    fn group(&mut self, negated: bool) -> Result<Expression, RuleError> {
        if self.depth >= MAX_NESTING {
            return Err(self.error_here(format!("parentheses are nested more than {MAX_NESTING} deep"), None));
        }
        self.depth += 1;
        self.position += 1;
        let inner = self.either(negated)?;
        if !self.eat(&Token::Close) {
            return Err(self.expected("`&&`, `||` or `)`"));
        }
        self.depth -= 1;
        Ok(inner)
    }

    fn call(&mut self, name: &str, negated: bool) -> Result<Expression, RuleError> {
        let name_span = self.here();
        self.position += 1;
        if !self.eat(&Token::Open) {
            // An unknown name is the more helpful thing to say.
            matcher::resolve(name, name_span, &[])?;
            let mut error = self.expected(&format!("`(` after `{name}`"));
            error.help = Some(format!("write {name}(`...`)"));
            return Err(error);
        }
        let mut arguments = Vec::new();
        while !self.eat(&Token::Close) {
            arguments.push(self.argument()?);
            // Go allows a comma after the last argument.
            if !self.eat(&Token::Comma) && self.peek() != Some(&Token::Close) {
                return Err(self.expected("`,` or `)`"));
            }
        }
        let span = name_span.start..self.tokens[self.position - 1].1.end;
        let kind = matcher::resolve(name, name_span, &arguments)?;
        let matcher = Matcher::build(kind, &arguments, span, &mut self.warnings)?;
        Ok(Expression::Match { matcher, negated })
    }

    fn argument(&mut self) -> Result<Argument, RuleError> {
        let span = self.here();
        match self.peek() {
            Some(Token::Text { value, verbatim }) => {
                let argument = Argument {
                    value: value.clone(),
                    verbatim: *verbatim,
                    span,
                };
                self.position += 1;
                Ok(argument)
            }
            Some(Token::Name(_)) => {
                let mut error = self.expected("a string");
                error.help = Some("put arguments in backticks or double quotes".to_owned());
                Err(error)
            }
            _ => Err(self.expected("a string")),
        }
    }
}

/// Joins by `&&` (`all`) or `||`, without a level for a single part or for a part of the same kind.
fn join(parts: Vec<Expression>, all: bool) -> Expression {
    let mut flat = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            Expression::All(inner) if all => flat.extend(inner),
            Expression::Any(inner) if !all => flat.extend(inner),
            other => flat.push(other),
        }
    }
    match (flat.len(), all) {
        (1, _) => flat.remove(0),
        (_, true) => Expression::All(flat),
        (_, false) => Expression::Any(flat),
    }
}
