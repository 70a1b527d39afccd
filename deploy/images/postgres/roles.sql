-- Roles and database of the voting system. In: the password files under /run/secrets. Out: three roles that can log in.
-- Run at every start, so that a rotated secret takes effect; running it again changes nothing else.
-- Tables and the rights on them are the worker's migrations.
\set ON_ERROR_STOP on
\set QUIET on
-- A password must not reach the log through a failing or a slow statement.
SET log_statement = 'none';
SET log_min_duration_statement = -1;
SET log_min_error_statement = 'panic';
SET password_encryption = 'scram-sha-256';

\set admin_password `cat /run/secrets/postgres-admin`
\set drain_password `cat /run/secrets/postgres-drain`
\set results_password `cat /run/secrets/postgres-results`

SELECT format('CREATE ROLE %I', name)
  FROM unnest(ARRAY['waggle_admin', 'waggle_drain', 'waggle_results']) AS name
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

-- Connection limits keep one role from taking every session: together they stay below max_connections.
ALTER ROLE waggle_admin   LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 10 PASSWORD :'admin_password';
ALTER ROLE waggle_drain   LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 50 PASSWORD :'drain_password';
ALTER ROLE waggle_results LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 50 PASSWORD :'results_password';

ALTER ROLE waggle_admin   SET lock_timeout = '10s';
ALTER ROLE waggle_drain   SET statement_timeout = '10s';
ALTER ROLE waggle_drain   SET lock_timeout = '5s';
ALTER ROLE waggle_drain   SET idle_in_transaction_session_timeout = '10s';
ALTER ROLE waggle_results SET statement_timeout = '5s';
ALTER ROLE waggle_results SET lock_timeout = '2s';
ALTER ROLE waggle_results SET default_transaction_read_only = on;

SELECT 'CREATE DATABASE waggle OWNER waggle_admin'
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'waggle') \gexec
REVOKE ALL ON DATABASE waggle FROM PUBLIC;
GRANT CONNECT ON DATABASE waggle TO waggle_drain, waggle_results;
