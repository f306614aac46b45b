//! A server without a socket: the router, what lies behind it, and a worker in the hands of the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use api::{
    AppState, CountTokens, Device, FrameLattice, Health, Limits, ModelCard, ModelCatalog, Scheduler, Size,
    StepRule,
};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use queue::{
    ApiKeys, Claim, Clock, Finished, KeyLimits, NewKey, Output, OutputFile, Owner, Queue, QueueOptions,
    Scope, Timings,
};
use serde_json::Value;
use store::VideoStore;
use tempfile::TempDir;
use tokio::sync::watch;
use tower::ServiceExt;

pub(crate) const NOTICE: &str = "made with random weights";

pub(crate) struct World {
    pub(crate) router: Router,
    pub(crate) queue: Queue,
    pub(crate) store: VideoStore,
    pub(crate) health: watch::Sender<Health>,
    pub(crate) devices: watch::Sender<Vec<Device>>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) recorder: PrometheusRecorder,
    owner: Owner,
    folder: TempDir,
}

/// A clock that moves when told to.
pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as i64, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A word is a token, and there is an end marker.
struct Words;

impl CountTokens for Words {
    fn count(&self, _model: &str, prompt: &str) -> usize {
        assert!(prompt != "make the tokenizer panic", "this test's tokenizer panics when asked to");
        prompt.split_whitespace().count() + 1
    }
}

pub(crate) fn text_to_video() -> ModelCard {
    let default_size = Size { width: 720, height: 480 };
    ModelCard {
        id: "cogvideox-2b".to_owned(),
        created: 1_722_816_000,
        owned_by: "THUDM".to_owned(),
        dtype: "f32".to_owned(),
        supports_image: false,
        default_size,
        sizes: vec![default_size],
        num_frames: FrameLattice { stride: 8, min: 9, max: 49 },
        default_num_frames: 49,
        fps: 8,
        num_inference_steps: StepRule { default: 50, max: 100, refused: vec![6, 7] },
        guidance_scale: 6.0,
        use_dynamic_cfg: false,
        scheduler: Scheduler::Ddim,
        max_prompt_tokens: 226,
        notice: Some(NOTICE.to_owned()),
    }
}

fn image_to_video() -> ModelCard {
    let num_frames = FrameLattice { stride: 8, min: 49, max: 49 };
    ModelCard { id: "cogvideox-5b-i2v".to_owned(), supports_image: true, num_frames, ..text_to_video() }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        Self::custom(KeyLimits::default(), |state| state.limits = limits).await
    }

    /// With these limits for each key, and a state that is changed as told.
    pub(crate) async fn custom(key_limits: KeyLimits, change: impl FnOnce(&mut AppState)) -> Self {
        let clock = Arc::new(TestClock(AtomicI64::new(1_700_000_000_500)));
        Self::open(tempfile::tempdir().unwrap(), clock, key_limits, change).await
    }

    /// The next server on the same disk. All streams of this one must have been dropped.
    pub(crate) async fn restart(self) -> Self {
        let Self { folder, clock, router, queue, .. } = self;
        drop((router, queue));
        Self::open(folder, clock, KeyLimits::default(), |_| {}).await
    }

    async fn open(
        folder: TempDir,
        clock: Arc<TestClock>,
        key_limits: KeyLimits,
        change: impl FnOnce(&mut AppState),
    ) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let options =
            QueueOptions { capacity: 3, lease_ms: 60_000, max_attempts: 2, key_limits, model_run_max: 8 };
        let queue = Queue::open(&folder.path().join("queue.db"), clock.clone(), options).await.unwrap();
        let store = VideoStore::open(&folder.path().join("videos")).await.unwrap();
        let (health, receiver) = watch::channel(Health::Ready);
        let device = |name: &str| Device { name: name.to_owned(), health: Health::Ready };
        let (devices, devices_seen) = watch::channel(vec![device("cpu"), device("cuda:1")]);
        let mut state = AppState {
            queue: queue.clone(),
            store: store.clone(),
            catalog: Arc::new(ModelCatalog::new(text_to_video(), vec![image_to_video()])),
            prompt_tokens: Arc::new(Words),
            adapters: None,
            health: receiver,
            devices: devices_seen,
            limits: Limits::default(),
            clock: clock.clone(),
            api_keys: queue.api_keys(),
            free_bytes: Arc::new(|| Box::pin(async { Some(1 << 40) })),
            disk: api::DiskProbe::default(),
            // A picture says so.
            check_image: Arc::new(|content| {
                let is_whole = content.ends_with(b"pixels");
                Box::pin(
                    async move { if is_whole { Ok(content) } else { Err("damaged: no pixels".to_owned()) } },
                )
            }),
            check_webhook_url: None,
            prompt_check: None,
            refine_prompt: None,
            rates: api::RequestRates::default(),
            access: api::Access::default(),
            streams: api::Streams::default(),
            tickets: api::Tickets::default(),
            metrics: {
                let metrics = recorder.handle();
                Arc::new(move || metrics.render())
            },
            retention_age: None,
            previews: true,
        };
        change(&mut state);
        let router = api::router(state);
        Self { router, queue, store, health, devices, clock, recorder, owner: Owner::unique(), folder }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn call(&self, method: Method, path: &str) -> Answer {
        self.send(Request::builder().method(method).uri(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path).await
    }

    pub(crate) async fn post(&self, content_type: &str, body: impl Into<Body>) -> Answer {
        let request = Request::post("/v1/videos").header(header::CONTENT_TYPE, content_type);
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(crate) async fn post_json(&self, body: Value) -> Answer {
        self.post("application/json", body.to_string()).await
    }

    /// A new API key's text. From the first one on the server asks for keys.
    pub(crate) async fn key(&self, name: &str, scopes: &[Scope], limits: KeyLimits) -> String {
        let new = NewKey { name: name.to_owned(), scopes: scopes.to_vec(), limits };
        self.keys().await.create(new).await.unwrap().1
    }

    /// A new API key's text, with no limits of its own.
    pub(crate) async fn key_for(&self, name: &str, scopes: &[Scope]) -> String {
        self.key(name, scopes, KeyLimits::default()).await
    }

    /// The keys, as the command line has them.
    pub(crate) async fn keys(&self) -> ApiKeys {
        ApiKeys::open(&self.folder.path().join("queue.db"), self.clock.clone()).await.unwrap()
    }

    /// A request with headers and perhaps a JSON body.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            None => Body::empty(),
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Body::from(body.to_string())
            }
        };
        self.send(request.body(body).unwrap()).await
    }

    /// A queued video's id.
    pub(crate) async fn queued(&self, prompt: &str) -> String {
        let answer = self.post_json(serde_json::json!({ "prompt": prompt })).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// The id of a video that was queued with an API key.
    pub(crate) async fn queued_by(&self, key: &str, prompt: &str) -> String {
        let (bearer, body) = (format!("Bearer {key}"), serde_json::json!({ "prompt": prompt }));
        let headers = [("authorization", bearer.as_str())];
        let answer = self.ask(Method::POST, "/v1/videos", &headers, Some(body)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn claim(&self) -> Claim {
        self.queue.claim(&self.owner).await.unwrap().expect("a video waits")
    }

    /// Whether a worker that asked now would get a video. It then has it.
    pub(crate) async fn work_waits(&self) -> bool {
        self.queue.claim(&self.owner).await.unwrap().is_some()
    }

    /// A finished video's id.
    pub(crate) async fn completed(&self, content: &[u8]) -> String {
        let id = self.queued("a cat").await;
        let claim = self.claim().await;
        self.complete(&claim, content).await;
        id
    }

    pub(crate) async fn complete(&self, claim: &Claim, content: &[u8]) {
        self.complete_with(claim, content, None, None).await;
    }

    pub(crate) async fn complete_with(
        &self,
        claim: &Claim,
        content: &[u8],
        thumbnail: Option<OutputFile>,
        spritesheet: Option<OutputFile>,
    ) {
        let video = self.put(&format!("{}.mp4", claim.video.id), content).await;
        let output = Output { video, thumbnail, spritesheet };
        let finished = Finished { output, timings: Timings::default(), peak_memory_bytes: None };
        self.queue.complete(&claim.lease, finished).await.unwrap();
    }

    /// A file in the store.
    pub(crate) async fn put(&self, key: &str, content: &[u8]) -> OutputFile {
        let stored = self.store.put(key, content.to_vec()).await.unwrap();
        OutputFile { key: key.to_owned(), bytes: stored.bytes, sha256: stored.sha256 }
    }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name}")).to_str().unwrap()
    }

    /// The error, after checking that it is the envelope and nothing else.
    pub(crate) fn error(&self) -> Value {
        assert_eq!(self.header("content-type"), "application/json");
        assert!(!self.header("x-request-id").is_empty());
        let body = self.json();
        let keys: Vec<_> = body["error"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["code", "message", "param", "type"]);
        assert_eq!(body.as_object().unwrap().len(), 1);
        assert!(!body["error"]["message"].as_str().unwrap().is_empty());
        body["error"].clone()
    }

    #[track_caller]
    pub(crate) fn assert_refused(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status.as_u16(), self.error()["code"].as_str().unwrap()),
            (status, code),
            "{}",
            self.text()
        );
    }
}
