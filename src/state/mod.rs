//! `StateStore`: small registries of JSON records on disk (`<data_dir>/state.redb`).
//!
//! Owns the file, its format version and its lock: one process a data directory. Every write is one
//! transaction that is on disk (fsync) when the call returns; a crash leaves the state before or after
//! it, never between. Calls from arbiters are async and do their I/O on tokio's blocking threads.
//! Messages do not live here.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The format that this program writes; a newer one is refused.
const FORMAT_VERSION: u32 = 1;
/// The key of the format version in [`Table::Meta`].
const FORMAT_KEY: &str = "format";
const FILE_NAME: &str = "state.redb";

type Definition = TableDefinition<'static, &'static str, &'static [u8]>;

/// The tables; keys are text, values JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Users by name.
    Users,
    /// What users may do, by user, NUL, vhost.
    Grants,
    /// Clients of the bus by `client_id`. A record has the fields of the client's
    /// [`ClientLogin`](crate::auth::ClientLogin): that is what authentication reads at start.
    Clients,
    /// Global parameters by name.
    Parameters,
    /// What describes the store itself.
    Meta,
}

impl Table {
    const ALL: [Self; 5] = [
        Self::Users,
        Self::Grants,
        Self::Clients,
        Self::Parameters,
        Self::Meta,
    ];

    fn definition(self) -> Definition {
        TableDefinition::new(match self {
            Self::Users => "users",
            Self::Grants => "grants",
            Self::Clients => "clients",
            Self::Parameters => "parameters",
            Self::Meta => "meta",
        })
    }
}

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has the data directory open.
    #[error("the data directory {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The data directory could not be made or entered.
    #[error("the data directory {} cannot be used: {source}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The store's file is there and cannot be opened: no permission, or not written by this program.
    #[error("the state file {} cannot be opened: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: redb::Error,
    },
    /// The data directory was written by a newer program.
    #[error("the data directory {} has format {found}; this program knows formats up to {FORMAT_VERSION}: use a newer one", .path.display())]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
    /// A record that cannot be encoded or decoded.
    #[error("the record {table:?}/{key} is not valid: {source}")]
    Record {
        /// The record's table.
        table: Table,
        /// The record's key.
        key: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The storage failed.
    #[error("the state store failed: {0}")]
    Storage(#[from] redb::Error),
    /// The blocking thread that did the work ended early.
    #[error("the state store's work was cut short by the end of the program")]
    Cancelled,
}

/// One change of several that [`StateStore::apply`] makes together.
#[derive(Debug)]
pub struct RecordChange {
    table: Table,
    key: String,
    bytes: Option<Vec<u8>>,
}

impl RecordChange {
    /// Writes a record, replacing any other under `key`.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn put<T: Serialize>(table: Table, key: &str, record: &T) -> Result<Self, StateError> {
        Ok(Self {
            table,
            key: key.to_owned(),
            bytes: Some(encode(table, key, record)?),
        })
    }

    /// Removes the record under `key`, if there is one.
    pub fn remove(table: Table, key: &str) -> Self {
        Self {
            table,
            key: key.to_owned(),
            bytes: None,
        }
    }
}

/// A handle on the open store; clones share it.
#[derive(Clone)]
pub struct StateStore {
    database: Arc<Database>,
}

impl StateStore {
    /// Opens the store in `data_dir`, making both when missing. Blocks: for start-up only.
    ///
    /// # Errors
    /// The directory cannot be used, is in use by another process, or holds a newer format.
    pub fn open(data_dir: &Path) -> Result<Self, StateError> {
        let directory = |source| StateError::Directory {
            path: data_dir.to_owned(),
            source,
        };
        fs::create_dir_all(data_dir).map_err(directory)?;
        let database = Database::create(data_dir.join(FILE_NAME)).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StateError::InUse(data_dir.to_owned()),
            other => StateError::Unreadable {
                path: data_dir.join(FILE_NAME),
                source: other.into(),
            },
        })?;
        restrict_to_owner(&data_dir.join(FILE_NAME)).map_err(directory)?;
        let store = Self {
            database: Arc::new(database),
        };
        store.check_format(data_dir)?;
        Ok(store)
    }

    /// The record under `key`, if there is one.
    ///
    /// # Errors
    /// The storage failed, or the record does not decode as `T`.
    pub async fn get<T>(&self, table: Table, key: &str) -> Result<Option<T>, StateError>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let key = key.to_owned();
        self.blocking(move |store| store.get_now(table, &key)).await
    }

    /// Writes the record, replacing any other under `key`; on disk when this returns.
    ///
    /// # Errors
    /// The storage failed; the old record stays.
    pub async fn put<T: Serialize>(
        &self,
        table: Table,
        key: &str,
        record: &T,
    ) -> Result<(), StateError> {
        let (key, bytes) = (key.to_owned(), encode(table, key, record)?);
        self.blocking(move |store| store.write(table, &key, Some(&bytes), Only::Always))
            .await
            .map(drop)
    }

    /// Writes the record unless there is one under `key` already; tells whether it was written.
    ///
    /// # Errors
    /// The storage failed; nothing was written.
    pub async fn put_new<T: Serialize>(
        &self,
        table: Table,
        key: &str,
        record: &T,
    ) -> Result<bool, StateError> {
        let (key, bytes) = (key.to_owned(), encode(table, key, record)?);
        self.blocking(move |store| store.write(table, &key, Some(&bytes), Only::IfAbsent))
            .await
    }

    /// Removes the record under `key`; tells whether there was one.
    ///
    /// # Errors
    /// The storage failed; the record stays.
    pub async fn delete(&self, table: Table, key: &str) -> Result<bool, StateError> {
        let key = key.to_owned();
        self.blocking(move |store| store.write(table, &key, None, Only::IfPresent))
            .await
    }

    /// Makes all changes in one transaction: after a crash either all of them are there or none.
    ///
    /// # Errors
    /// The storage failed; nothing is changed.
    pub async fn apply(&self, changes: Vec<RecordChange>) -> Result<(), StateError> {
        self.blocking(move |store| {
            let write = store.database.begin_write().map_err(storage)?;
            for RecordChange { table, key, bytes } in &changes {
                let mut records = write.open_table(table.definition()).map_err(storage)?;
                let key = key.as_str();
                match bytes {
                    Some(bytes) => drop(records.insert(key, &**bytes).map_err(storage)?),
                    None => drop(records.remove(key).map_err(storage)?),
                }
            }
            write.commit().map_err(storage)
        })
        .await
    }

    /// All records of a table, in the order of their keys.
    ///
    /// # Errors
    /// The storage failed, or a record does not decode as `T`.
    pub async fn list<T>(&self, table: Table) -> Result<Vec<(String, T)>, StateError>
    where
        T: DeserializeOwned + Send + 'static,
    {
        self.blocking(move |store| store.list_now(table)).await
    }

    async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<R, StateError> + Send + 'static,
    ) -> Result<R, StateError> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || work(&store))
            .await
            .map_err(|_| StateError::Cancelled)?
    }

    fn get_now<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &str,
    ) -> Result<Option<T>, StateError> {
        let read = self.database.begin_read().map_err(storage)?;
        let records = read.open_table(table.definition()).map_err(storage)?;
        let found = records.get(key).map_err(storage)?;
        found
            .map(|bytes| decode(table, key, bytes.value()))
            .transpose()
    }

    fn list_now<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>, StateError> {
        let read = self.database.begin_read().map_err(storage)?;
        let records = read.open_table(table.definition()).map_err(storage)?;
        let mut list = Vec::new();
        for entry in records.iter().map_err(storage)? {
            let (key, bytes) = entry.map_err(storage)?;
            list.push((
                key.value().to_owned(),
                decode(table, key.value(), bytes.value())?,
            ));
        }
        Ok(list)
    }

    /// One write in one transaction; `None` removes. Tells whether anything was done.
    fn write(
        &self,
        table: Table,
        key: &str,
        bytes: Option<&[u8]>,
        only: Only,
    ) -> Result<bool, StateError> {
        let write = self.database.begin_write().map_err(storage)?;
        {
            let mut records = write.open_table(table.definition()).map_err(storage)?;
            let present = records.get(key).map_err(storage)?.is_some();
            if !only.allows(present) {
                return Ok(false);
            }
            match bytes {
                Some(bytes) => drop(records.insert(key, bytes).map_err(storage)?),
                None => drop(records.remove(key).map_err(storage)?),
            }
        }
        write.commit().map_err(storage)?;
        Ok(true)
    }

    /// Makes all tables, then checks the format version or writes ours into a new store.
    fn check_format(&self, data_dir: &Path) -> Result<(), StateError> {
        let write = self.database.begin_write().map_err(storage)?;
        for table in Table::ALL {
            write.open_table(table.definition()).map_err(storage)?;
        }
        write.commit().map_err(storage)?;
        match self.get_now::<u32>(Table::Meta, FORMAT_KEY)? {
            Some(found) if found > FORMAT_VERSION => Err(StateError::NewerFormat {
                path: data_dir.to_owned(),
                found,
            }),
            Some(_) => Ok(()),
            None => {
                let bytes = encode(Table::Meta, FORMAT_KEY, &FORMAT_VERSION)?;
                self.write(Table::Meta, FORMAT_KEY, Some(&bytes), Only::Always)
                    .map(drop)
            }
        }
    }
}

/// When a write happens.
#[derive(Clone, Copy)]
enum Only {
    Always,
    IfAbsent,
    IfPresent,
}

impl Only {
    fn allows(self, present: bool) -> bool {
        match self {
            Self::Always => true,
            Self::IfAbsent => !present,
            Self::IfPresent => present,
        }
    }
}

/// The hashes of secrets are nobody else's business.
#[cfg(unix)]
fn restrict_to_owner(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}

#[cfg(not(unix))]
fn restrict_to_owner(_path: &Path) -> std::io::Result<()> {
    Ok(())
}

fn storage(error: impl Into<redb::Error>) -> StateError {
    StateError::Storage(error.into())
}

fn encode<T: Serialize>(table: Table, key: &str, record: &T) -> Result<Vec<u8>, StateError> {
    serde_json::to_vec(record).map_err(|source| StateError::Record {
        table,
        key: key.to_owned(),
        source,
    })
}

fn decode<T: DeserializeOwned>(table: Table, key: &str, bytes: &[u8]) -> Result<T, StateError> {
    serde_json::from_slice(bytes).map_err(|source| StateError::Record {
        table,
        key: key.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> StateStore {
        StateStore::open(dir).unwrap()
    }

    #[actix_web::test]
    async fn records_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.put(Table::Clients, "b", &2).await.unwrap();
        store.put(Table::Clients, "a", &1).await.unwrap();
        store.put(Table::Users, "a", &"other table").await.unwrap();
        drop(store);
        let store = open(dir.path());
        let list = store.list::<i32>(Table::Clients).await.unwrap();
        assert_eq!(list, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert_eq!(store.get::<i32>(Table::Clients, "c").await.unwrap(), None);
    }

    #[actix_web::test]
    async fn put_new_keeps_what_is_there_and_delete_tells() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        assert!(store.put_new(Table::Users, "k", &1).await.unwrap());
        assert!(!store.put_new(Table::Users, "k", &2).await.unwrap());
        assert_eq!(store.get::<i32>(Table::Users, "k").await.unwrap(), Some(1));
        assert!(store.delete(Table::Users, "k").await.unwrap());
        assert!(!store.delete(Table::Users, "k").await.unwrap());
    }

    #[actix_web::test]
    async fn changes_are_made_together() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.put(Table::Users, "old", &1).await.unwrap();
        let changes = vec![
            RecordChange::remove(Table::Users, "old"),
            RecordChange::remove(Table::Users, "never"),
            RecordChange::put(Table::Users, "new", &2).unwrap(),
            RecordChange::put(Table::Grants, "new\0/", &3).unwrap(),
        ];
        store.apply(changes).await.unwrap();
        let users = store.list::<i32>(Table::Users).await.unwrap();
        assert_eq!(users, [("new".to_owned(), 2)]);
        let grant = store.get::<i32>(Table::Grants, "new\0/").await.unwrap();
        assert_eq!(grant, Some(3));
    }

    #[actix_web::test]
    async fn a_second_opening_names_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let _held = open(dir.path());
        let error = StateStore::open(dir.path()).err().unwrap().to_string();
        assert!(
            error.contains(dir.path().to_str().unwrap()) && error.contains("in use"),
            "{error}"
        );
    }

    #[actix_web::test]
    async fn a_file_of_somebody_else_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        fs::write(&path, "a letter").unwrap();
        let error = StateStore::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"a letter");
    }

    #[actix_web::test]
    async fn a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store
            .put(Table::Meta, FORMAT_KEY, &(FORMAT_VERSION + 1))
            .await
            .unwrap();
        drop(store);
        let error = StateStore::open(dir.path()).err().unwrap();
        assert!(
            matches!(error, StateError::NewerFormat { found: 2, .. }),
            "{error}"
        );
    }

    #[actix_web::test]
    async fn a_record_of_another_shape_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.put(Table::Users, "k", &"text").await.unwrap();
        let error = store
            .get::<i32>(Table::Users, "k")
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("Users/k"), "{error}");
    }
}
