"""The step on torch's operations: any processor, any type; what compiled steps are held against."""
