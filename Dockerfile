# The nightly as a container. docs/cloud.md runs it every night. To try it here:
#   docker build -t stkpi . && docker run --rm --env-file .env -v "$PWD/runs:/app/runs" stkpi
FROM python:3.11-slim
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY requirements.txt ./
COPY lib lib
RUN pip install --no-cache-dir -r requirements.txt
# The rest that .dockerignore lets through: notebooks, sql, expectations, and the company folder where there is one.
COPY . .
# The number is named where the bucket is mounted: its files belong to this user.
RUN useradd --create-home --uid 1000 nightly && mkdir runs && chown nightly runs
USER nightly
CMD ["python", "-m", "stkpi.runner", "notebooks/nightly.yml"]
