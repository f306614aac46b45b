//! Models by name: which repository a name means, whether its files are here, and how they come here.
//!
//! A folder that exists is itself, whatever it is called. Else a name or `owner/name` means a repository of the hub, whose
//! files lie in the cache: what is whole there is used without a call to anybody. `cogvideox` says which files are of
//! use, `outbound` fetches them; this joins the two.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use cogvideox::repository::{is_complete, small_files, weight_files};
use outbound::hub::{Hub, HubSettings, Listing, OnProgress, RepoId};

use crate::config::ModelPath;

/// The published models by short names, and their repositories.
const PUBLISHED: [(&str, &str); 5] = [
    ("cogvideox-2b", "THUDM/CogVideoX-2b"),
    ("cogvideox-5b", "THUDM/CogVideoX-5b"),
    ("cogvideox-5b-i2v", "THUDM/CogVideoX-5b-I2V"),
    ("cogvideox-1.5-5b", "THUDM/CogVideoX1.5-5B"),
    ("cogvideox-1.5-5b-i2v", "THUDM/CogVideoX1.5-5B-I2V"),
];

/// How an environment is handed in.
pub(crate) type Variables = [(OsString, OsString)];

/// Where models are looked for.
#[derive(Debug, Clone)]
pub(crate) struct ModelFiles {
    settings: HubSettings,
}

/// Where a model is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// Here, or nowhere: whoever reads the path says what is wrong with it.
    Here(ModelPath),
    /// To be fetched, or what is missing of it.
    OnHub(RepoId),
}

impl ModelFiles {
    /// With the configured endpoint, or the environment's where that is empty.
    pub(crate) fn new(endpoint: &str, environment: &Variables) -> Self {
        let variable = |wanted: &str| {
            environment.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
        };
        Self { settings: HubSettings::from_environment(variable, endpoint) }
    }

    /// Where the model is. Calls nobody.
    pub(crate) fn find(&self, path: &ModelPath) -> Place {
        let ModelPath::Folder(dir) = path else { return Place::Here(path.clone()) };
        if dir.exists() {
            return Place::Here(path.clone());
        }
        match repository(dir) {
            None => Place::Here(path.clone()),
            Some(repo) => {
                self.whole(&repo).map_or(Place::OnHub(repo), |dir| Place::Here(ModelPath::Folder(dir)))
            }
        }
    }

    /// The folder of a repository of which the cache has every file.
    pub(crate) fn whole(&self, repo: &RepoId) -> Option<PathBuf> {
        self.settings.cached(repo).filter(|dir| is_complete(dir))
    }

    /// Whether no call may be made.
    pub(crate) fn is_offline(&self) -> bool {
        self.settings.offline
    }

    /// Asks the hub for the repository, and fetches all but its weights.
    ///
    /// # Errors
    /// What the hub or the disk refuses; a repository that is no pipeline.
    pub(crate) async fn begin(&self, repo: &RepoId, on_progress: OnProgress) -> anyhow::Result<Begun> {
        let hub = Hub::new(&self.settings, on_progress)?;
        let listing = hub.listing(repo).await?;
        let dir = hub.fetch(&listing, &small_files(listing.paths())?).await?;
        Ok(Begun { repo: repo.clone(), hub, listing, dir })
    }
}

/// A model of which all but the weights is here.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) repo: RepoId,
    /// Where it lies, and where the weights will.
    pub(crate) dir: PathBuf,
    hub: Hub,
    listing: Listing,
}

impl Begun {
    /// Fetches the weights.
    ///
    /// # Errors
    /// Those of [`ModelFiles::begin`].
    pub(crate) async fn finish(&self) -> anyhow::Result<()> {
        self.hub.fetch(&self.listing, &weight_files(self.listing.paths(), &self.dir)?).await?;
        Ok(self.hub.keep(&self.listing)?)
    }
}

/// The repository that a name means, if it can be one's.
pub(crate) fn repository(name: &Path) -> Option<RepoId> {
    let name = name.to_str()?;
    let published = PUBLISHED.iter().find(|(short, _)| *short == name);
    published.map_or(name, |(_, id)| id).parse().ok()
}

/// What a model's folder is called: a commit's in the hub's cache (`models--OWNER--NAME/snapshots/COMMIT`) by the
/// repository's name, any other by its own.
pub(crate) fn folder_name(dir: &Path) -> Option<String> {
    let name = |dir: &Path| Some(dir.file_name()?.to_string_lossy().into_owned());
    let snapshots = dir.parent().filter(|parent| parent.ends_with("snapshots"));
    let repository = snapshots.and_then(Path::parent).and_then(name);
    match repository
        .as_deref()
        .and_then(|repository| repository.strip_prefix("models--")?.rsplit("--").next())
    {
        Some(repository) => Some(repository.to_owned()),
        None => name(dir),
    }
}

/// What a model that is given by path or name is called in requests.
pub(crate) fn name_in_requests(path: &Path) -> Option<String> {
    if !path.exists()
        && let Some(repo) = repository(path)
    {
        return Some(repo.name().to_owned());
    }
    folder_name(path)
}
