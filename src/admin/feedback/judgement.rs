//! The true mask against the one that the model answered.

use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::Refusal;
use crate::imaging::{Mask, MaskError, Report, dice, nifti};
use crate::model::masks::Store;
use crate::observe::metrics::FeedbackResult;

/// The label of the mean over the foreground.
pub(super) const MEAN: &str = "dice";
/// Most labels of a mask that are series of their own; all are in the answer.
const MOST_LABELS: usize = 32;
/// How long the answer is waited for that is still under way, or on its way to the disk.
const LANDING: Duration = Duration::from_secs(5);

/// How well two masks agree.
#[derive(Debug)]
pub(super) struct Comparison(Report);

impl Comparison {
    /// The samples that it makes: the mean over the foreground, and each label where there are several.
    pub(super) fn samples(&self) -> Vec<(String, f64)> {
        let mean = self.0.mean.map(|mean| (MEAN.to_owned(), mean));
        let several = self.0.labels.len() > 1;
        let labels = self.0.labels.iter().filter(|label| several && label.label > 0);
        let labels = labels.filter_map(|label| Some((format!("{MEAN}_{}", label.label), label.value?)));
        mean.into_iter().chain(labels.take(MOST_LABELS)).collect()
    }

    pub(super) fn to_json(&self) -> Value {
        let labels = self.0.labels.iter().map(|label| {
            let value = json!({
                "dice": label.value,
                "reference_voxels": label.reference_voxels,
                "predicted_voxels": label.predicted_voxels,
            });
            (label.label.to_string(), value)
        });
        json!({"mean": self.0.mean, "labels": labels.collect::<serde_json::Map<_, _>>()})
    }
}

/// Compares `truth` with the mask that `store` keeps of the answer to `id`, on a blocking thread. The turn ends with the
/// comparison, also where the sender does not wait for it.
pub(super) async fn compare(
    store: Option<Arc<Store>>,
    id: u128,
    truth: Vec<u8>,
    turn: OwnedSemaphorePermit,
) -> Result<Comparison, Refusal> {
    let work = move || {
        let _turn = turn;
        let truth = decode(&truth, "the mask that was sent")?;
        let kept = store.map(|store| store.read(id, LANDING)).transpose().map_err(|e| {
            tracing::error!("a kept mask cannot be read: {e}");
            gone("the mask of this answer cannot be read from the disk")
        })?;
        let kept = kept.flatten().ok_or_else(|| {
            gone(
                "no mask of this answer is kept: `keepMasks` of its service is off, it expired or made room, or the \
                 answer was no NIfTI file",
            )
        })?;
        let answer = decode(&kept, "the model's mask")?;
        drop(kept);
        dice(&truth, &answer).map(Comparison).map_err(|mismatch| {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            Refusal::new(status, FeedbackResult::Geometry, mismatch.to_string())
        })
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(compared) => compared,
        Err(e) => {
            tracing::error!("a comparison of masks failed: {e}");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Err(Refusal::new(status, FeedbackResult::Malformed, "the comparison failed"))
        }
    }
}

fn gone(message: &str) -> Refusal {
    Refusal::new(StatusCode::CONFLICT, FeedbackResult::NoMask, message)
}

fn decode(bytes: &[u8], what: &str) -> Result<Mask, Refusal> {
    Mask::decode(bytes).map_err(|error| {
        let message = format!("{what} cannot be compared: {error}");
        match error {
            MaskError::File(nifti::Error::TooLarge { .. }) => Refusal::too_large(message),
            _ => Refusal::senseless(message),
        }
    })
}
