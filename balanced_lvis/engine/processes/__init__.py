"""The processes of a job: started or found, scaled, watched, and stopped in time."""
