"""The inference server that runs inside a deployment's container: one process per deployment, serving one MLflow model."""
