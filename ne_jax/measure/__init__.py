"""Who reads what, with n and interval; spectra and angles; records. Knows neither a job nor a workdir."""
