//! The API's own description: what `openapi.yaml` is generated from.
//!
//! The routes describe themselves next to their handlers; here is what they share. Error answers come from the
//! code table, so a status without a code, or a code without a status, cannot be documented.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::http::StatusCode;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Content, OpenApi, PathItem, Ref, RefOr, Response, ResponseBuilder, Responses, encoding::EncodingBuilder,
    path::Operation, path::ParameterStyle,
};
use utoipa::{IntoResponses, OpenApi as _};

use crate::error::{Code, ErrorEnvelope, X_REQUEST_ID};
use crate::router::routes;
use crate::routes::content::{Download, Variant};
use crate::routes::videos::SortOrder;
use crate::sse::kind::{PreviewEvent, ProgressEvent, StageEvent, StreamError};

/// The security scheme's name.
const API_KEY: &str = "api_key";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "CogVideoX server", license(name = "Apache-2.0", identifier = "Apache-2.0")),
    tags(
        (name = "videos", description = "Making videos. The shapes of OpenAI's Videos API, and more fields."),
        (name = "queue", description = "The queue as a whole."),
        (name = "models", description = "What the models of this server take."),
        (name = "health", description = "For whoever runs the server."),
    ),
    // Those that only parameters, refusals and events name.
    components(schemas(
        ErrorEnvelope, SortOrder, Variant, Download, StageEvent, ProgressEvent,
        PreviewEvent, StreamError,
    )),
)]
struct Document;

/// The API's description, out of the code.
pub fn openapi() -> OpenApi {
    let (quick, streams) = routes();
    let mut document = Document::openapi();
    document.merge(quick.into_openapi());
    document.merge(streams.into_openapi());
    env!("CARGO_PKG_VERSION").clone_into(&mut document.info.version);
    document.info.description = Some(description());
    document.info.contact = None;
    // Either of them: a server without keys asks for none.
    document.security =
        Some(vec![SecurityRequirement::new::<_, _, &str>(API_KEY, []), SecurityRequirement::default()]);
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
        "An API key, `cvx_...`, as soon as the server has any (`features.api_keys` of `GET /v1/capabilities`).",
    ));
    let schemes = &mut document.components.get_or_insert_default().security_schemes;
    schemes.insert(API_KEY.to_owned(), SecurityScheme::Http(scheme.build()).into());
    let shared = &mut document.components.get_or_insert_default().headers;
    shared.insert(X_REQUEST_ID.to_string(), header("Names this exchange in the server's log.").into());
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            for response in operation.responses.responses.values_mut() {
                if let RefOr::T(response) = response {
                    let shared = Ref::new(format!("#/components/headers/{X_REQUEST_ID}"));
                    response.headers.insert(X_REQUEST_ID.to_string(), RefOr::Ref(shared));
                }
            }
            bracket_metadata(operation);
        }
    }
    document
}

/// The description as YAML, ending in a newline: the content of `openapi.yaml`.
#[expect(clippy::missing_panics_doc, reason = "what it is made of always becomes YAML")]
pub fn openapi_yaml() -> String {
    openapi().to_yaml().expect("a document of strings, numbers and lists becomes YAML")
}

fn description() -> String {
    let mut text = "Text to video with CogVideoX, in the shapes of OpenAI's Videos API.\n\n\
        Every refusal has the body `ErrorEnvelope`; every answer has an `x-request-id` header, the caller's own if \
        it sent a sane one. The codes:\n\n| code | status | meaning |\n|---|---|---|\n"
        .to_owned();
    for code in Code::ALL {
        let (status, doc) = (code.status().as_u16(), code.doc().trim());
        writeln!(text, "| `{}` | {status} | {doc} |", code.as_str()).expect("a string takes any write");
    }
    text
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.head, &mut item.post, &mut item.delete, &mut item.patch].into_iter().flatten()
}

fn header(meaning: &str) -> Header {
    let text = ObjectBuilder::new().schema_type(Type::String);
    HeaderBuilder::new().schema(Some(text)).description(Some(meaning)).build()
}

/// In a form, `metadata` is a field per entry.
fn bracket_metadata(operation: &mut Operation) {
    let Some(RefOr::T(body)) = &mut operation.request_body else { return };
    let Some(RefOr::T(form)) = body.content.get_mut("application/x-www-form-urlencoded") else { return };
    let encoding = EncodingBuilder::new().style(Some(ParameterStyle::DeepObject)).explode(Some(true)).build();
    form.encoding.insert("metadata".to_owned(), encoding);
}

macro_rules! error_sets {
    ($($(#[doc = $doc:literal])+ $name:ident = [$($code:ident),* $(,)?] + [$($base:expr),*];)+) => {$(
        $(#[doc = $doc])+
        pub(crate) struct $name;

        impl $name {
            const CODES: &[&[Code]] = &[&[$(Code::$code),*], $($base),*];
        }

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                error_responses(Self::CODES)
            }
        }
    )+};
}

/// What a route that wants to know who asks may answer.
const CALLER: &[Code] = &[
    Code::MissingApiKey,
    Code::InvalidApiKey,
    Code::PermissionDenied,
    Code::CrossSiteRequest,
    Code::HostNotAllowed,
    Code::RateLimitExceeded,
];

/// What a route that makes a video may answer.
const SUBMIT: &[Code] = &[
    Code::InvalidRequest,
    Code::PromptTooLong,
    Code::InvalidIdempotencyKey,
    Code::PromptRefused,
    Code::ModelNotFound,
    Code::IdempotencyKeyReuse,
    Code::QueueFull,
    Code::ModelNotReady,
    Code::ServerDraining,
    Code::WorkerFailed,
    Code::PromptCheckUnavailable,
    Code::UnsupportedParameter,
    Code::UnknownLora,
    Code::UnsupportedLora,
];

/// What a route with a body of fields may answer.
const FIELDS: &[Code] = &[
    Code::MissingRequiredParameter,
    Code::UnknownParameter,
    Code::DuplicateParameter,
    Code::InvalidType,
    Code::UnsupportedMediaType,
];

/// What a route that opens an event stream may answer.
const STREAM: &[Code] = &[
    Code::InvalidTicket,
    Code::InvalidType,
    Code::UnknownParameter,
    Code::DuplicateParameter,
    Code::TooManyStreams,
];

/// What any route may answer.
const COMMON: &[Code] = &[
    Code::PayloadTooLarge,
    Code::RequestTimeout,
    Code::Internal,
    Code::InsufficientStorage,
    Code::QueueUnavailable,
];

error_sets! {
    /// Refusals of a route that takes nothing.
    CommonErrors = [] + [COMMON];
    /// Refusals of a route that takes nothing but an API key.
    CallerErrors = [] + [CALLER, COMMON];
    /// Refusals of a route about one model.
    ModelErrors = [InvalidRequest, ModelNotFound] + [COMMON];
    /// Refusals of a route about one video.
    LookupErrors = [InvalidRequest, VideoNotFound] + [CALLER, COMMON];
    /// Refusals of following one video.
    FollowErrors = [InvalidRequest, VideoNotFound] + [STREAM, CALLER, COMMON];
    /// Refusals of following all videos.
    FollowAllErrors = [] + [STREAM, CALLER, COMMON];
    /// Refusals of a ticket.
    TicketErrors = [TooManyTickets] + [CALLER, COMMON];
    /// Refusals of cancelling.
    CancelErrors = [InvalidRequest, VideoNotFound] + [CALLER, COMMON];
    /// Refusals of changing.
    ChangeErrors = [InvalidRequest, InvalidPriority, VideoNotFound, VideoNotQueued] + [FIELDS, CALLER, COMMON];
    /// Refusals of remixing.
    RemixErrors = [
        EmptyPrompt, VideoNotReady, VideoNotFound, VideoExpired, LoraChanged,
    ] + [FIELDS, SUBMIT, CALLER, COMMON];
    /// Refusals of making once more.
    RetryErrors = [VideoNotReady, VideoNotFound, VideoExpired, LoraChanged] + [SUBMIT, CALLER, COMMON];
    /// Refusals of deleting.
    DeleteErrors = [InvalidRequest, VideoNotFound, CancellationInProgress] + [CALLER, COMMON];
    /// Refusals of listing.
    ListErrors = [
        InvalidType, UnknownParameter, DuplicateParameter, InvalidLimit, InvalidOrder, InvalidState,
        InvalidCursor,
    ] + [CALLER, COMMON];
    /// Refusals of downloading.
    ContentErrors = [
        InvalidRequest, InvalidType, UnknownParameter, DuplicateParameter, UnknownVariant, VideoNotReady,
        Cancelled, VideoNotFound, VariantNotAvailable, VideoExpired, RangeNotSatisfiable,
    ] + [CALLER, COMMON];
    /// Refusals of what OpenAI's API has and this server does not do.
    UnsupportedErrors = [UnsupportedOperation] + [COMMON];
    /// Refusals of making a video.
    CreateErrors = [
        ConflictingParameters, EmptyPrompt, UnsupportedSize, InvalidSeconds, UnsupportedNumFrames, UnsupportedFps,
        UnsupportedNumInferenceSteps, InvalidGuidanceScale, UnsupportedScheduler, InvalidSeed, InvalidPriority,
        InvalidMetadata, UnsupportedN, UnsupportedInputReference, InvalidImage, InvalidLora, InvalidWebhookUrl,
    ] + [FIELDS, SUBMIT, CALLER, COMMON];
}

fn error_responses(codes: &[&[Code]]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in codes.iter().copied().flatten() {
        by_status.entry(code.status().as_u16()).or_default().push(*code);
    }
    let mut responses = Responses::new();
    for (status, codes) in by_status {
        let names: Vec<_> = codes.iter().map(|code| format!("`{}`", code.as_str())).collect();
        let mut response = ResponseBuilder::new()
            .description(names.join(", "))
            .content("application/json", Content::new(Some(Ref::from_schema_name("ErrorEnvelope"))));
        for (name, meaning) in headers(codes[0].status()) {
            response = response.header(*name, header(meaning));
        }
        responses.responses.insert(status.to_string(), RefOr::T(response.build()));
    }
    responses.responses
}

/// Headers that come with a status, beyond those of every answer.
fn headers(status: StatusCode) -> &'static [(&'static str, &'static str)] {
    match status {
        StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            &[("retry-after", "Seconds to wait."), ("retry-after-ms", "Milliseconds to wait.")]
        }
        StatusCode::UNAUTHORIZED => &[("www-authenticate", "`Bearer`.")],
        StatusCode::RANGE_NOT_SATISFIABLE => &[("content-range", "Length of the file.")],
        _ => &[],
    }
}
