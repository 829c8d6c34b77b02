//! What of a call depends on the types of its method.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::guest::members::Members;
use crate::ops::{Error, Libvirt};
use crate::rpc::json;
use crate::rpc::subject::About;

/// What a method takes.
pub(super) trait Params: Clone + DeserializeOwned + for<'de> Members<'de> + About {}

impl<P: Clone + DeserializeOwned + for<'de> Members<'de> + About> Params for P {}

/// A verb and its parameter: all of a call that depends on their types, so that the rest is compiled once.
pub(super) trait Given {
    /// The members that the parameter may have.
    fn names(&self) -> &'static [&'static str];

    /// Reads the parameter, which is empty before.
    ///
    /// # Errors
    /// Where this is no such parameter.
    fn read(&mut self, json: &str) -> serde_json::Result<()>;

    /// The parameter.
    fn about(&mut self) -> &mut dyn About;

    /// Runs the verb with the parameter; what writes its result.
    ///
    /// # Errors
    /// Those of the verb.
    fn carry_out(&mut self, agent: &Libvirt) -> Result<BoxedWriter, Error>;
}

pub(super) type BoxedWriter = Box<dyn Fn(&mut Vec<u8>) -> serde_json::Result<()>>;

pub(super) struct Typed<'a, P, R> {
    params: P,
    verb: &'a dyn Fn(&Libvirt, P) -> Result<R, Error>,
}

pub(super) fn given<P: Params, R>(
    verb: &dyn Fn(&Libvirt, P) -> Result<R, Error>,
) -> Typed<'_, P, R> {
    Typed { params: P::default(), verb }
}

impl<P: Params, R: Serialize + 'static> Given for Typed<'_, P, R> {
    fn names(&self) -> &'static [&'static str] {
        P::NAMES
    }

    fn read(&mut self, json: &str) -> serde_json::Result<()> {
        self.params = serde_json::from_str(json)?;
        Ok(())
    }

    fn about(&mut self) -> &mut dyn About {
        &mut self.params
    }

    fn carry_out(&mut self, agent: &Libvirt) -> Result<BoxedWriter, Error> {
        let result = (self.verb)(agent, std::mem::take(&mut self.params))?;
        Ok(Box::new(move |out| json::write(out, &result)))
    }
}
