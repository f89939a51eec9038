"""The processes of a job: how they are found or started, watched, and stopped."""
