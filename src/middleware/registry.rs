//! The middlewares: one line each.

use std::sync::Arc;

use super::{
    BuildContext, BuildError, Middleware, add_prefix, basic_auth, buffering, headers, in_flight_req, ip_allow_list,
    rate_limit, redirect_scheme, strip_prefix,
};
use crate::config::dynamic::Middleware as Settings;

/// Tries the kinds in turn: `field => module` builds `settings.field` by `module::build`.
macro_rules! kinds {
    ($settings:ident, $context:ident, $($field:ident => $module:ident,)*) => {
        $(if let Some(settings) = &$settings.$field {
            return $module::build(settings, $context);
        })*
    };
}

/// Builds the middleware that `settings` names. Chains are flattened before this.
///
/// # Errors
/// When it cannot be built; its routers must not be served then.
pub fn build(settings: &Settings, context: &mut BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
    kinds! { settings, context,
        add_prefix => add_prefix,
        basic_auth => basic_auth,
        buffering => buffering,
        headers => headers,
        in_flight_req => in_flight_req,
        ip_allow_list => ip_allow_list,
        rate_limit => rate_limit,
        redirect_scheme => redirect_scheme,
        strip_prefix => strip_prefix,
    }
    Err(BuildError::new("", "a middleware without a kind").help("give it one, such as `basicAuth`"))
}
