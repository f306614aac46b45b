//! From a draft to a row of the queue: what may still stand in the way, in the order in which it is cheap to find out.
//!
//! A request that repeats an earlier one is answered before any of it, so that a client that lost the first answer
//! gets it even when the queue is full. Asks the prompt's checker and refiner, and knows neither.

use queue::{Enqueued, Submission};

use crate::auth::Caller;
use crate::create::{Draft, find_lora};
use crate::error::{Code, Error, Result};
use crate::input_reference;
use crate::prompt::{PromptToCheck, PromptVerdict};
use crate::state::AppState;

/// Puts the draft in the queue, or finds the video that the same request made before.
pub(crate) async fn submit(
    state: &AppState,
    caller: &Caller,
    mut draft: Draft<'_>,
    submission: Submission,
) -> Result<Enqueued> {
    draft.job.owner = caller.owner();
    let earlier = state.queue.earlier(draft.job.owner.as_ref(), &submission).await;
    if let Some(video) = earlier.map_err(|error| refusal(error, state))? {
        return Ok(Enqueued { video, replayed: true });
    }
    draft.job.submission = Some(submission);
    state.accepts_videos()?;
    state.has_room().await?;
    let lora = std::mem::take(&mut draft.lora);
    draft.job.params.lora = find_lora(state, draft.card, lora).await?;
    let image = match draft.image.take() {
        Some(wanted) => Some(input_reference::read(state, wanted).await?),
        None => None,
    };
    if state.prompt_check.is_some() || draft.refine {
        // Nobody is asked about a prompt that would not be taken anyway; whether it is, is decided at the end.
        let (counts, capacity) = (state.queue.counts().await?, state.queue.options().capacity);
        if counts.queued >= capacity {
            return Err(refusal(queue::Error::QueueFull { capacity }, state));
        }
    }
    check_prompt(state, caller, &draft).await?;
    if draft.refine {
        refine_prompt(state, caller, &mut draft).await?;
    }
    draft.count_tokens(&*state.prompt_tokens)?;
    let image = match image {
        Some(content) => Some(input_reference::put(state, content).await?),
        None => None,
    };
    draft.job.params.image.clone_from(&image);
    let enqueued = state.queue.enqueue(draft.job, caller.name()).await;
    if let Some(image) = image
        && is_certainly_not_there(&enqueued)
    {
        input_reference::remove(state, &image).await;
    }
    let enqueued = enqueued.map_err(|error| refusal(error, state))?;
    if !enqueued.replayed {
        tracing::info!(job.id = %enqueued.video.id, model = enqueued.video.model, "video queued");
    }
    Ok(enqueued)
}

/// Whether no new row was written. After a failure of the job table there may be one all the same.
fn is_certainly_not_there(enqueued: &queue::Result<Enqueued>) -> bool {
    match enqueued {
        Ok(enqueued) => enqueued.replayed,
        Err(error) => matches!(
            error,
            queue::Error::QueueFull { .. }
                | queue::Error::KeyQueueFull { .. }
                | queue::Error::IdempotencyKeyReuse
        ),
    }
}

async fn check_prompt(state: &AppState, caller: &Caller, draft: &Draft<'_>) -> Result<()> {
    let Some(check) = &state.prompt_check else { return Ok(()) };
    let prompt = PromptToCheck {
        prompt: &draft.job.params.prompt,
        negative_prompt: &draft.job.params.negative_prompt,
        model: &draft.job.model,
        api_key_name: caller.name(),
    };
    match check.check(&prompt).await {
        PromptVerdict::Allowed => Ok(()),
        PromptVerdict::Refused { reason } => Err(Error::param(Code::PromptRefused, "prompt", reason)),
        PromptVerdict::Unavailable => Err(Error::TryLater {
            code: Code::PromptCheckUnavailable,
            message: "the prompt could not be checked, and unchecked prompts are not taken".to_owned(),
            after: state.limits.retry_after,
        }),
    }
}

/// Puts a refined prompt in the draft. Where there is none, a warning says so and the client's own stays: a video of
/// it is better than none.
async fn refine_prompt(state: &AppState, caller: &Caller, draft: &mut Draft<'_>) -> Result<()> {
    let Some(refiner) = &state.refine_prompt else { return Ok(()) };
    let refined = match refiner.refine(&draft.job.params.prompt).await {
        Ok(refined) if refined.trim().is_empty() => Err("the refiner came back with nothing".to_owned()),
        Ok(refined) => {
            let (tokens, limit) =
                (state.prompt_tokens.count(&draft.card.id, &refined), draft.card.max_prompt_tokens);
            let fits = tokens <= limit;
            if fits {
                Ok(refined)
            } else {
                Err(format!("it came to {tokens} tokens, the model reads {limit}"))
            }
        }
        Err(why) => Err(why),
    };
    match refined {
        Ok(refined) => {
            let sent = std::mem::replace(&mut draft.job.params.prompt, refined);
            draft.job.sent_prompt = Some(sent);
            check_prompt(state, caller, draft).await
        }
        Err(why) => {
            draft.job.warnings.push(format!("the prompt was not refined: {why}"));
            Ok(())
        }
    }
}

/// What the queue will not take, in the API's words.
fn refusal(error: queue::Error, state: &AppState) -> Error {
    match error {
        queue::Error::QueueFull { .. } | queue::Error::KeyQueueFull { .. } => Error::TryLater {
            code: Code::QueueFull,
            message: error.to_string(),
            after: state.limits.retry_after,
        },
        queue::Error::IdempotencyKeyReuse => {
            Error::param(Code::IdempotencyKeyReuse, "idempotency-key", error.to_string())
        }
        error => error.into(),
    }
}
