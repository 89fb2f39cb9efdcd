"""The step on torch's operations, for any processor and type; the reference of compiled steps."""
