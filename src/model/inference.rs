//! One request to a model, from before its server is chosen to the head of the answer.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::{HeaderValue, Method, header};

use super::request_id::RequestId;
use super::voxels::{self, VoxelCount};
use super::{ModelPlan, answer, server_timing};
use crate::http::exchange::Exchange;
use crate::http::{Request, Response};

/// A request to a model that has no answer yet.
#[derive(Debug)]
pub struct Inference {
    id: RequestId,
    to_head: bool,
    voxels: Option<Rc<VoxelCount>>,
    /// The time in the gateway so far.
    gateway: Duration,
    handed: Instant,
}

impl ModelPlan {
    /// A request is about to go to one of the model's servers: it gets its id, and its body an observer.
    pub fn begin(&self, request: &mut Request, exchange: &mut Exchange) -> Inference {
        let id = RequestId::assign(request.headers_mut());
        exchange.request_id = Some(id.id);
        if self.reads_trailers() {
            // RFC 9110, 6.5.1: without it, a server should not send any.
            request
                .headers_mut()
                .insert(header::TE, HeaderValue::from_static("trailers"));
        }
        let mut body = std::mem::take(request.body_mut());
        let voxels = voxels::watch(request.headers(), &mut body, &self.series);
        *request.body_mut() = body;
        Inference {
            id,
            to_head: request.method() == Method::HEAD,
            voxels,
            gateway: exchange.started.elapsed(),
            handed: Instant::now(),
        }
    }

    /// Its answer's head is there, the server's or one of Gantry's own. Only a server's 2xx says anything of the model.
    pub fn finish(self: &Arc<Self>, inference: Inference, response: &mut Response) {
        inference.id.tell(response.headers_mut());
        if response.status().is_success() {
            let id = inference.id.id.as_u128();
            self.read_headers(response.headers());
            self.read_stages(response.headers());
            if let Some(voxels) = &inference.voxels {
                voxels.answered();
            }
            answer::watch(self, id, inference.to_head, response);
        }
        if self.server_timing.as_ref().is_some_and(|timing| timing.to_client)
            && let Some(own) = server_timing::own(inference.gateway, inference.handed.elapsed())
        {
            response.headers_mut().append(server_timing::SERVER_TIMING, own);
        }
    }
}
