//! How the controller writes values to status (`reference/hpa.md` 10).

use loadline_base::{Quantity, QuantityFormat};

/// A milli-value as status shows it: memory in binary form, everything else in decimal form.
#[must_use]
pub fn status_quantity(resource: &str, milli: i64) -> Quantity {
    let quantity = Quantity::from_milli(milli);
    if resource == "memory" { quantity.with_format(QuantityFormat::BinarySi) } else { quantity }
}
