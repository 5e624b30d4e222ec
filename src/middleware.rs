//! What happens to a request between router and service, and to its answer on the way back.
//!
//! A middleware is one file here and one line in [`registry`]. It is built once per router at compile time, holds
//! nothing that must survive a reload (that lives in [`Runtime`]), and runs around the rest of the chain.

pub mod add_prefix;
pub mod basic_auth;
pub mod buffering;
pub mod chain;
pub mod headers;
pub mod in_flight_req;
pub mod ip_allow_list;
pub mod path;
pub mod rate_limit;
pub mod redirect_scheme;
pub mod registry;
pub mod source;
pub mod strip_prefix;

use std::fmt::Debug;
use std::sync::Arc;

use crate::config::Resources;
use crate::http::exchange::Exchange;
use crate::http::{BoxFuture, Request, Response};
use crate::runtime::Runtime;
use crate::service::Service;

/// One stage around the rest of the chain.
pub trait Middleware: Send + Sync + Debug {
    /// Handles `request`: answers it, or changes it and hands it to `next`, and may change the answer.
    ///
    /// Dropping the future cancels the request; whatever must be undone is undone in `Drop`, never after an `await`.
    fn handle<'a>(&'a self, request: Request, exchange: &'a mut Exchange, next: Next<'a>) -> BoxFuture<'a, Response>;
}

/// The rest of the chain, ending in the service.
#[derive(Debug, Clone, Copy)]
pub struct Next<'a> {
    rest: &'a [Arc<dyn Middleware>],
    service: &'a Service,
}

impl<'a> Next<'a> {
    /// A chain of `middlewares` in front of `service`.
    #[must_use]
    pub fn new(middlewares: &'a [Arc<dyn Middleware>], service: &'a Service) -> Self {
        Self {
            rest: middlewares,
            service,
        }
    }

    /// Runs the rest of the chain.
    ///
    /// The service's future, which is large, is boxed once at the end of the chain; an `async fn` here would put it into
    /// the future of each middleware.
    pub fn run<'b>(self, request: Request, exchange: &'b mut Exchange) -> BoxFuture<'b, Response>
    where
        'a: 'b,
    {
        match self.rest.split_first() {
            Some((first, rest)) => first.handle(
                request,
                exchange,
                Next {
                    rest,
                    service: self.service,
                },
            ),
            None => Box::pin(self.service.handle(request, exchange)),
        }
    }
}

/// What a middleware may use while it is built.
#[derive(Debug)]
pub struct BuildContext<'a> {
    /// Its qualified name, `auth@file`.
    pub name: &'a str,
    /// The qualified name of the router that it is built for.
    pub router: &'a str,
    /// State that outlives reloads.
    pub runtime: &'a Runtime,
    /// The contents of the files that the configuration names.
    pub resources: &'a Resources,
    /// Warnings for whoever reads the reload's log.
    pub warnings: &'a mut Vec<String>,
}

/// Why a middleware cannot be built. The router that uses it is refused: it must not be served without it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BuildError {
    /// The key below the middleware's name, `basicAuth.users[1]`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

impl BuildError {
    /// An error at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
            help: None,
        }
    }

    /// Adds how to mend it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}
