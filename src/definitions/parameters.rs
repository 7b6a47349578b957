//! Parameters: what RabbitMQ's management calls by a component and a name, and definitions carry.
//!
//! Limits of a vhost and operator policies have this form too, and are what they are: seen here, and changed. Of other
//! components none is here. What an import brings for one is kept with its vhost and given out again, so that nothing gets
//! lost on the way; it cannot be made one by one, as where RabbitMQ lacks the plugin. Global parameters are anything.

use serde_json::{Map, Value, json};

use super::{Definitions, DefinitionsError};
use crate::engine::{
    Author, Policy, PolicyDefinition, PolicyError, VhostDefinition, VhostInfo, VhostLimits,
};
use crate::state::Table;

/// The component of a vhost's limits.
pub const VHOST_LIMITS: &str = "vhost-limits";
/// The component of operator policies.
pub const OPERATOR_POLICY: &str = "operator_policy";
/// The one name that limits have.
const LIMITS: &str = "limits";
const POLICY: &str = "policy";

/// A parameter of a vhost.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its vhost.
    pub vhost: String,
    /// What it is for.
    pub component: String,
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Value,
}

/// What came of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterChange {
    /// It was not there.
    New,
    /// It was there.
    Changed,
}

/// Why a parameter is none, in RabbitMQ's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// Nobody here knows the component.
    #[error("component {0} not found")]
    Component(String),
    /// Policies have a place of their own.
    #[error("policies may not be set using this method")]
    IsPolicy,
    /// Limits have one name.
    #[error("limits are named {LIMITS}")]
    Name,
    /// A limit that nobody knows.
    #[error("Unrecognised terms [{0}] in limits")]
    Limit(String),
    /// The value does not have the form that it must have.
    #[error("{0}")]
    Form(String),
    /// A policy that is none.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// What a parameter means here.
#[derive(Debug)]
pub(super) enum Meaning {
    Limits(VhostLimits),
    Policy(Author, PolicyDefinition),
    /// Nothing.
    None,
}

impl Meaning {
    pub fn of(
        component: &str,
        vhost: &str,
        name: &str,
        value: &Value,
    ) -> Result<Self, ParameterError> {
        let object = || {
            let object = value.as_object().cloned();
            object.ok_or_else(|| ParameterError::Form(format!("the value of {name} is no object")))
        };
        match component {
            VHOST_LIMITS if name != LIMITS => Err(ParameterError::Name),
            // Erlang writes an empty object as an empty list now and then.
            VHOST_LIMITS if value.as_array().is_some_and(Vec::is_empty) => {
                Ok(Self::Limits(VhostLimits::default()))
            }
            VHOST_LIMITS => limits(&object()?).map(Self::Limits),
            OPERATOR_POLICY => Ok(Self::Policy(
                Author::Operator,
                policy(vhost, name, object()?)?,
            )),
            POLICY => Ok(Self::Policy(Author::User, policy(vhost, name, object()?)?)),
            _ => Ok(Self::None),
        }
    }
}

fn limits(value: &Map<String, Value>) -> Result<VhostLimits, ParameterError> {
    let known = ["max-connections", "max-queues"];
    if let Some(other) = value.keys().find(|it| !known.contains(&it.as_str())) {
        return Err(ParameterError::Limit(other.clone()));
    }
    serde_json::from_value(value.clone().into())
        .map_err(|error| ParameterError::Form(error.to_string()))
}

fn policy(
    vhost: &str,
    name: &str,
    mut fields: Map<String, Value>,
) -> Result<PolicyDefinition, ParameterError> {
    fields.insert("vhost".into(), vhost.into());
    fields.insert("name".into(), name.into());
    serde_json::from_value(fields.into()).map_err(|error| ParameterError::Form(error.to_string()))
}

/// Keeps a parameter that means nothing. True: it was not there.
pub(super) fn keep(
    definition: &mut VhostDefinition,
    component: String,
    name: String,
    value: Value,
) -> bool {
    let of_component = definition.parameters.entry(component).or_default();
    of_component.insert(name, value).is_none()
}

impl Definitions {
    /// All parameters, by vhost, component and name.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut all = Vec::new();
        for vhost in self.engine.vhosts() {
            let definition = &vhost.definition;
            for (component, named) in &definition.parameters {
                for (name, value) in named {
                    all.push(parameter(&vhost, component, name, value.clone()));
                }
            }
            if definition.limits != VhostLimits::default() {
                let value = serde_json::to_value(definition.limits).unwrap_or_default();
                all.push(parameter(&vhost, VHOST_LIMITS, LIMITS, value));
            }
        }
        for policy in self.engine.policies(Author::Operator) {
            let it = &policy.definition;
            all.push(Parameter {
                vhost: it.vhost.clone(),
                component: OPERATOR_POLICY.into(),
                name: it.name.clone(),
                value: json!({
                    "pattern": it.pattern, "definition": it.definition, "priority": it.priority, "apply-to": it.apply_to,
                }),
            });
        }
        let key = |it: &Parameter| (it.vhost.clone(), it.component.clone(), it.name.clone());
        all.sort_by_cached_key(key);
        all
    }

    /// Sets a parameter of a component that is here; as safe as the vhost's level says when this returns.
    ///
    /// # Errors
    /// It is none, there is no such vhost, or the log takes nothing.
    pub async fn put_parameter(&self, it: Parameter) -> Result<ParameterChange, DefinitionsError> {
        let wrong = |error: ParameterError| DefinitionsError::Parameter(error);
        if it.component == POLICY {
            return Err(wrong(ParameterError::IsPolicy));
        }
        let engine = &self.engine;
        let meaning = Meaning::of(&it.component, &it.vhost, &it.name, &it.value);
        let new = match meaning.map_err(wrong)? {
            Meaning::Limits(limits) => {
                let mut new = false;
                engine.redefine_vhost(&it.vhost, |definition| {
                    new = definition.limits == VhostLimits::default();
                    definition.limits = limits;
                })?;
                new
            }
            Meaning::Policy(author, policy) => {
                let policy = Policy::new(author, policy).map_err(|error| wrong(error.into()))?;
                engine.build_policy(author, policy)?
            }
            Meaning::None => return Err(wrong(ParameterError::Component(it.component))),
        };
        engine.built(&it.vhost).await?;
        Ok(match new {
            true => ParameterChange::New,
            false => ParameterChange::Changed,
        })
    }

    /// Takes a parameter away, whatever its component. False: there is none.
    ///
    /// # Errors
    /// The log takes nothing.
    pub async fn remove_parameter(
        &self,
        component: &str,
        vhost: &str,
        name: &str,
    ) -> Result<bool, DefinitionsError> {
        let is_it =
            |it: &Parameter| (&*it.component, &*it.vhost, &*it.name) == (component, vhost, name);
        if !self.parameters().iter().any(is_it) {
            return Ok(false);
        }
        if component == OPERATOR_POLICY {
            let author = Author::Operator;
            return Ok(self.engine.remove_policy(author, vhost, name).await?);
        }
        self.engine
            .redefine_vhost(vhost, |definition| match component {
                VHOST_LIMITS => definition.limits = VhostLimits::default(),
                _ => forget(definition, component, name),
            })?;
        self.engine.built(vhost).await?;
        Ok(true)
    }

    /// The global parameters, by name.
    ///
    /// # Errors
    /// The state store failed. So it is with the following.
    pub async fn globals(&self) -> Result<Vec<(String, Value)>, DefinitionsError> {
        Ok(self.state.list(Table::Parameters).await?)
    }

    /// One of them.
    ///
    /// # Errors
    /// As above.
    pub async fn global(&self, name: &str) -> Result<Option<Value>, DefinitionsError> {
        Ok(self.state.get(Table::Parameters, name).await?)
    }

    /// Sets a global parameter.
    ///
    /// # Errors
    /// As above.
    pub async fn put_global(
        &self,
        name: &str,
        value: &Value,
    ) -> Result<ParameterChange, DefinitionsError> {
        if self.state.put_new(Table::Parameters, name, value).await? {
            return Ok(ParameterChange::New);
        }
        self.state.put(Table::Parameters, name, value).await?;
        Ok(ParameterChange::Changed)
    }

    /// Takes a global parameter away. False: there is none.
    ///
    /// # Errors
    /// As above.
    pub async fn remove_global(&self, name: &str) -> Result<bool, DefinitionsError> {
        Ok(self.state.delete(Table::Parameters, name).await?)
    }
}

fn forget(definition: &mut VhostDefinition, component: &str, name: &str) {
    if let Some(named) = definition.parameters.get_mut(component) {
        named.remove(name);
        if named.is_empty() {
            definition.parameters.remove(component);
        }
    }
}

fn parameter(vhost: &VhostInfo, component: &str, name: &str, value: Value) -> Parameter {
    Parameter {
        vhost: vhost.definition.name.clone(),
        component: component.to_owned(),
        name: name.to_owned(),
        value,
    }
}
