//! Definitions: everything but messages, as one document in RabbitMQ's form, to be taken out and brought in.
//!
//! Bringing in adds and changes, and deletes nothing ([`import`](Definitions::import)). The whole document is checked before
//! anything is changed: queues, exchanges and bindings are drawn on paper with what is there ([`crate::engine::Sketch`]). Then
//! vhosts come first, users and what is granted to them in one transaction, and the rest in the order in which it
//! builds on each other. When the answer is given, all of it is as safe as its vhost's level says. A
//! crash in between leaves a part, which the same import completes.
//!
//! Also owns what is kept and means nothing here: parameters, of vhosts with the vhost ([`parameters`]), and global ones.

mod document;
mod export;
mod import;
mod parameters;

use std::sync::Arc;

use crate::auth::{Authenticator, UserError};
use crate::engine::{Engine, EngineError};
use crate::state::{StateError, StateStore};
pub use document::Notes;
pub use parameters::{OPERATOR_POLICY, Parameter, ParameterChange, ParameterError, VHOST_LIMITS};

/// Takes definitions out and brings them in. Clones share it.
#[derive(Clone)]
pub struct Definitions {
    engine: Engine,
    auth: Arc<Authenticator>,
    state: StateStore,
    /// Held during an import: two at a time would mix.
    importing: Arc<tokio::sync::Mutex<()>>,
}

/// What an import did.
#[derive(Debug, Default)]
pub struct Imported {
    /// Things that were not there.
    pub new: usize,
    /// Things that were there: as before, or changed where that is possible.
    pub known: usize,
    /// What somebody should know.
    pub notes: Notes,
}

/// Why definitions were not brought in.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionsError {
    /// It is not JSON, or no object. Nothing is changed.
    #[error("the definitions are not JSON: {0}")]
    NotJson(String),
    /// An item is wrong, which is named. Nothing is changed.
    #[error("{0}")]
    Wrong(String),
    /// A parameter is none. Nothing is changed.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// There is no vhost of that name. Nothing is changed.
    #[error("there is no vhost '{0}'")]
    NoVhost(String),
    /// The broker does not take it; a part may have been brought in.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Users could not be stored; a part may have been brought in.
    #[error(transparent)]
    Users(#[from] UserError),
    /// Parameters could not be stored; a part may have been brought in.
    #[error(transparent)]
    State(#[from] StateError),
    /// The program ends.
    #[error("the import was cut short by the end of the program")]
    Cancelled,
    /// A file could not be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
}

impl Imported {
    /// Tells the operator what came from where.
    pub fn log(&self, from: &str) {
        let (new, known) = (self.new, self.known);
        tracing::info!(from, new, known, "definitions imported");
        for note in self.notes.iter() {
            tracing::warn!(note, "definitions imported");
        }
    }
}

impl Definitions {
    /// Of this broker and these users.
    pub fn new(engine: Engine, auth: Arc<Authenticator>, state: StateStore) -> Self {
        Self {
            engine,
            auth,
            state,
            importing: Arc::default(),
        }
    }

    /// Brings in what a file says.
    ///
    /// # Errors
    /// As [`Definitions::import`].
    pub async fn import_file(&self, path: &std::path::Path) -> Result<Imported, DefinitionsError> {
        let own = path.to_owned();
        let read = tokio::task::spawn_blocking(move || std::fs::read(own)).await;
        let read = read.map_err(|_| DefinitionsError::Cancelled)?;
        let json = read.map_err(|source| DefinitionsError::File {
            path: path.display().to_string(),
            source,
        })?;
        self.import(json.into(), None).await
    }
}
