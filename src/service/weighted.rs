//! `weighted`: services behind services. The canary's home: an edit of the weights moves the shares with the next
//! request.

use std::sync::Arc;

use ::http::header;

use super::Service;
use super::sticky::{StickyCookie, Wish};
use super::wrr::Cursor;
use crate::http::exchange::Exchange;
use crate::http::{Request, Response, error};
use crate::observe::metrics::VariantSeries;

/// A child with its weight.
#[derive(Debug)]
pub struct Child {
    /// Its name, as the file writes it.
    pub name: String,
    /// Its value in sticky cookies.
    pub sticky: String,
    /// The service.
    pub service: Service,
    /// Its series within the weighted service.
    pub series: VariantSeries,
}

/// A weighted service of a snapshot.
#[derive(Debug)]
pub struct Weighted {
    /// Its qualified name.
    pub name: String,
    /// The children with a weight above 0.
    pub children: Vec<Child>,
    /// Their weights.
    pub weights: Vec<i64>,
    /// The position of the round robin.
    pub cursor: Arc<Cursor>,
    /// `sticky.cookie`
    pub sticky: Option<StickyCookie>,
}

impl Weighted {
    /// Chooses a child and hands it the request.
    pub async fn handle(&self, request: Request, exchange: &mut Exchange) -> Response {
        let wish = self.sticky.as_ref().and_then(|sticky| {
            let members = self.children.iter().map(|c| (c.name.as_str(), c.sticky.as_str()));
            sticky
                .wish(request.headers(), members)
                .filter(|w| self.children[w.member()].service.is_up())
        });
        let chosen = wish
            .map(Wish::member)
            .or_else(|| self.cursor.next(&self.weights, |i| self.children[i].service.is_up()));
        let Some(chosen) = chosen else {
            return error::no_available_server();
        };
        let child = &self.children[chosen];
        exchange.variants.push(child.series);
        let mut response = child.service.handle(request, exchange).await;
        if let Some(sticky) = &self.sticky
            && !matches!(wish, Some(Wish::Member(_)))
            && let Some(cookie) = sticky.set(&child.sticky)
        {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        response
    }

    /// Whether any child is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.children.iter().any(|c| c.service.is_up())
    }
}
