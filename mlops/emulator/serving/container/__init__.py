"""The inference server in a deployment's container: one process per deployment, serving one MLflow model or scoring script."""
