#!/bin/sh
# Writes down the hash of every file of the pair again, after new models were put in place.
cd "$(dirname "$0")" && sha256sum slm/* llm/* > SHA256SUMS
